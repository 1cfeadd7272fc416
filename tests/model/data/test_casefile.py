"""Laws of the case file: exact labels, a bound on the image's error, the same voxels by patch as at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import casefile
from model.data.bricks import BRICK, Bricks, encode
from model.data.casefile import Case, CaseRecord

RECORD = CaseRecord("acdc-1", "acdc", "train", ("CINE",), ("left_ventricle",), (10.0, 1.5, 1.5), {"origin": [0, 0, 0]})


def scan(shape: tuple[int, ...] = (2, 21, 40, 35), seed: int = 0) -> np.ndarray:
    """Constant outside a ball; inside smooth, noisy, with a rare outlier."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape[1:]], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.8
    image = np.where(inside, np.sin(3 * axes[0]) + rng.normal(0, 0.1, shape), -1.5).astype(np.float32)
    image[0, 10, 20, 17] = 40
    return image


def structures(shape: tuple[int, ...] = (21, 40, 35), count: int = 5) -> np.ndarray:
    d, h, w = np.indices(shape)
    return ((d // 5 + h // 11 + w // 9) % count * (h > 12)).astype(np.uint8)


def stored(array: np.ndarray, dtype: type = np.float32) -> Bricks:
    return Bricks(array.shape, **encode(array, dtype))


def range_of_own_brick(array: np.ndarray) -> np.ndarray:
    """For every voxel: largest minus smallest value in its brick."""
    extent = np.zeros_like(array)
    for corner in np.ndindex(*[-(-n // BRICK) for n in array.shape[-3:]]):
        box = (..., *(slice(BRICK * at, BRICK * (at + 1)) for at in corner))
        extent[box] = np.ptp(array[box], axis=(-3, -2, -1), keepdims=True)
    return extent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    casefile.write(
        tmp_path / "case.safetensors", Case(RECORD, scan(), structures(), np.array([[4, 1, 2, 3]], np.int32))
    )
    return tmp_path / "case.safetensors"


def test_a_case_file_gives_back_what_was_written(path: Path) -> None:
    found = casefile.read(path)
    assert found.record == RECORD
    assert np.array_equal(found.label, structures())
    assert np.array_equal(found.foreground, [[4, 1, 2, 3]])
    assert found.image.shape == scan().shape
    assert found.image.dtype == np.float32
    assert np.abs(np.asarray(found.image) - scan()).max() <= np.ptp(scan()) / 509


@pytest.mark.parametrize("seed", range(3))
def test_an_image_is_off_by_at_most_a_510th_of_the_range_in_its_brick(seed: int) -> None:
    image = scan(seed=seed)
    error = np.abs(np.asarray(stored(image)) - image)
    assert (error <= range_of_own_brick(image) / 510 + 1e-6).all()
    assert error[range_of_own_brick(image) == 0].max() == 0


def test_the_error_is_below_a_hundredth_of_the_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (1, 32, 32, 32)).astype(np.float32)
    assert (np.asarray(stored(noise)) - noise).std() < 0.01


@pytest.mark.parametrize("count", [1, 2, 3, 200])
def test_labels_come_back_exactly(count: int) -> None:
    label = structures(count=count)
    assert np.array_equal(stored(label, np.uint8), label)
    mixed = np.random.default_rng(count).integers(0, count, (9, 17, 8), dtype=np.uint8)
    assert np.array_equal(stored(mixed, np.uint8), mixed)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_patch_equals_that_part_of_the_whole(data: st.DataObject) -> None:
    image, label = stored(scan()), stored(structures(), np.uint8)
    box = []
    for size in label.shape:
        low = data.draw(st.integers(0, size))
        box.append(slice(low, data.draw(st.integers(low, size))))
    assert np.array_equal(label[tuple(box)], np.asarray(label)[tuple(box)])
    assert np.array_equal(image[(slice(None), *box)], np.asarray(image)[(slice(None), *box)])


def test_indices_select_as_in_numpy() -> None:
    image = stored(scan())
    whole = np.asarray(image)
    for key in (0, (1, 7), (..., 3), (0, slice(2, 9)), (slice(1, 2), -1), (slice(None), 4, ..., slice(-5, None))):
        assert np.array_equal(image[key], whole[key])
    with pytest.raises(IndexError, match="outside an axis of 21"):
        image[0, 21]
    with pytest.raises(ValueError, match="step 2"):
        image[:, ::2]


def test_a_patch_is_the_callers_own(path: Path) -> None:
    case = casefile.read(path)
    patch, mask = case.image[:], case.label[:]
    patch += 1
    mask += 1
    assert np.array_equal(case.label, structures())


def test_the_same_case_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    casefile.write(tmp_path / "again", casefile.read(path))
    casefile.write(tmp_path / "once more", casefile.read(tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "once more").read_bytes()
    case = Case(RECORD, scan(), structures(), np.array([[4, 1, 2, 3]], np.int32))
    casefile.write(tmp_path / "another", case)
    assert (tmp_path / "another").read_bytes() == path.read_bytes()


def test_a_large_file_takes_little_more_than_a_byte_a_voxel_and_reads_alike(tmp_path: Path) -> None:
    """Large enough that patches are asked of the kernel ahead."""
    rng = np.random.default_rng(0)
    image, label = rng.normal(0, 1, (1, 128, 128, 96)).astype(np.float32), structures((128, 128, 96), 2)
    casefile.write(tmp_path / "case.safetensors", Case(RECORD, image, label, np.zeros((0, 4), np.int32)))
    assert (tmp_path / "case.safetensors").stat().st_size < 1.2 * image.size
    found = casefile.read(tmp_path / "case.safetensors")
    box = (slice(3, 100), slice(17, 128), slice(40, 90))
    assert np.array_equal(found.label[box], label[box])
    assert np.array_equal(found.image[(slice(None), *box)], stored(image)[(slice(None), *box)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_refused(value: float) -> None:
    image = scan()
    image[1, 5, 6, 7] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode(image, np.float32)


@pytest.mark.parametrize("damage", ["{}", "empty", "cut", "other"])
def test_a_damaged_case_file_is_refused(path: Path, damage: str) -> None:
    whole = path.read_bytes()
    short = {"{}": b"\x02" + b"\0" * 7 + b"{}", "empty": b"", "cut": whole[: len(whole) // 2], "other": b"PNG" * 100}
    path.write_bytes(short[damage])
    with pytest.raises(ValueError, match=r"case\.safetensors is not a case file .* rerun preprocess"):
        casefile.read(path)
