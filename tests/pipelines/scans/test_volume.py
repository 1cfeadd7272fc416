"""Geometry laws: what is read, turned and cut goes back onto the file's own grid exactly."""

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.scans.volume import VolumeError, read, restore, write_label
from pipelines.scans.volume_geometry import Geometry
from tests.conftest import save

RNG = np.random.default_rng(0)
ORIENTATIONS = ["".join(letters) for axes in permutations(["RL", "AP", "SI"]) for letters in product(*axes)]


def in_orientation(codes: str) -> np.ndarray:
    """An affine whose axes run towards `codes`; 1.5 mm right-left, 2 mm front-back, 5 mm head-foot."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, letter in enumerate(codes):
        world = next(index for index, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        affine[world, axis] = (1.5, 2.0, 5.0)[world] * (1 if letter in "RAS" else -1)
    return affine


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_restore_is_the_inverse_of_reading_for_all_48_orientations(tmp_path: Path, codes: str) -> None:
    array = RNG.integers(0, 200, (6, 7, 8)).astype(np.uint8)
    path = save(tmp_path / "scan.nii.gz", array, in_orientation(codes))
    volume = read(path)
    assert volume.orientation == codes
    np.testing.assert_array_equal(restore(volume.array, Geometry.of(volume)), array)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "IPL", "SAL"])
def test_array_axes_run_head_front_right_with_spacing_in_the_same_order(tmp_path: Path, codes: str) -> None:
    """The voxel nearest a point in patient space has the same place in the array, however the file is stored."""
    affine = in_orientation(codes)
    array = np.zeros((6, 7, 8), np.uint8)
    corners = np.array(list(product(*[(0, n - 1) for n in array.shape])))
    superior_anterior_right = max(corners, key=lambda ijk: (affine @ [*ijk, 1])[:3].sum())
    array[tuple(superior_anterior_right)] = 9
    volume = read(save(tmp_path / "scan.nii.gz", array, affine))
    assert volume.array[-1, -1, -1] == 9
    spacing = dict(zip("SAR", volume.spacing_mm, strict=True))
    assert spacing == {"S": 5.0, "A": 2.0, "R": 1.5}


def test_a_crop_goes_back_to_its_place(tmp_path: Path) -> None:
    array = np.zeros((6, 7, 8), np.uint8)
    array[2:4, 3:5, 1:7] = RNG.integers(1, 9, (2, 2, 6))
    volume = read(save(tmp_path / "scan.nii.gz", array, in_orientation("IPL")))
    found = np.argwhere(volume.array > 0)
    origin, end = found.min(axis=0), found.max(axis=0) + 1
    d, h, w = origin.tolist()
    geometry = Geometry.of(volume).cropped((d, h, w), tuple((end - origin).tolist()))
    cut = volume.array[d : end[0], h : end[1], w : end[2]]
    np.testing.assert_array_equal(restore(cut, Geometry.from_json(geometry.to_json())), array)


@pytest.mark.parametrize("name", ["label.nii.gz", "label.nii"])
def test_a_written_label_lies_on_the_scan(tmp_path: Path, name: str) -> None:
    scan = save(tmp_path / "scan.nii.gz", RNG.random((6, 7, 8)).astype(np.float32), in_orientation("PIR"))
    volume = read(scan)
    label = restore((volume.array > 0.5).astype(np.uint8), Geometry.of(volume))
    write_label(tmp_path / name, label, volume.affine)
    original, written = nib.load(scan), nib.load(tmp_path / name)
    np.testing.assert_allclose(written.affine, original.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(original.dataobj) > 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "scan.nii.gz"]


def test_a_singular_affine_is_refused(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 2] = affine[:3, 1]
    path = save(tmp_path / "scan.nii.gz", np.ones((4, 4, 4), np.uint8), affine)
    with pytest.raises(VolumeError, match="singular"):
        read(path)
