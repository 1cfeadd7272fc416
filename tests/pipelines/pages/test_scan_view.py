"""What a viewer is given of an answer: the scan and what was found, small, and nothing moved."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.pages import scan_view
from pipelines.scans import vocabulary
from pipelines.scans.volume_geometry import Volume


def volume(shape: tuple[int, int, int]) -> Volume:
    k, r, c = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return Volume((k + r + c).astype(np.float32), (3.0, 1.0, 0.5), np.eye(4), shape)


def structures() -> list[vocabulary.Structure]:
    words = vocabulary.default()
    return [words["kidney"], words["spleen"]]


def test_a_small_scan_is_whole(tmp_path: Path) -> None:
    scan, (kidney, spleen) = volume((5, 7, 9)), structures()
    label = np.zeros(scan.array.shape, np.int16)
    label[1, 2:4, 3], label[4, 6, 8] = kidney.id, spleen.id
    scan_view.write(tmp_path / "a.view", scan, label, "T1", [kidney, spleen], {"warnings": ["x"]})
    header, grey, numbers = scan_view.read(tmp_path / "a.view")
    assert header["structures"] == [{"name": each.name, "colour": list(each.colour)} for each in (kidney, spleen)]
    assert (header["step"], header["spacing_mm"], header["warnings"]) == ([1, 1, 1], [3.0, 1.0, 0.5], ["x"])
    np.testing.assert_array_equal(numbers, (label == kidney.id) + 2 * (label == spleen.id))
    assert grey.min() == 0
    assert grey.max() == 255
    assert (np.diff(grey.astype(int), axis=0) >= 0).all()  # brighter where the scan is


def test_a_large_scan_is_coarsened_axis_by_axis(tmp_path: Path) -> None:
    scan, (kidney, _) = volume((2, 400, 193)), structures()
    label = np.zeros(scan.array.shape, np.int16)
    label[:, 300:, :] = kidney.id
    scan_view.write(tmp_path / "a.view", scan, label, "T1", [kidney], {})
    header, grey, numbers = scan_view.read(tmp_path / "a.view")
    assert header["step"] == [1, 3, 2]
    assert header["full_shape"] == [2, 400, 193]
    assert grey.shape == numbers.shape == (2, 134, 97)
    assert header["spacing_mm"] == [3.0, 3.0, 1.0]
    assert np.flatnonzero(numbers[0, :, 0])[0] == 100


def test_ct_is_shown_in_its_window(tmp_path: Path) -> None:
    scan = Volume(np.full((2, 2, 2), 40.0, np.float32), (1.0, 1.0, 1.0), np.eye(4), (2, 2, 2))
    scan_view.write(tmp_path / "a.view", scan, np.zeros((2, 2, 2), np.int16), "CT", [], {})
    assert scan_view.read(tmp_path / "a.view")[1] == pytest.approx(128, abs=1)


def test_more_structures_than_a_byte_names_are_told_as_others(tmp_path: Path) -> None:
    words = list(vocabulary.default().values())[:2] * 128
    label = np.full((1, 1, 2), words[0].id, np.int16)
    label[0, 0, 1] = 999
    scan_view.write(tmp_path / "a.view", volume((1, 1, 2)), label, "T1", words, {})
    assert scan_view.read(tmp_path / "a.view")[2].ravel().tolist()[1] == scan_view.OTHER
