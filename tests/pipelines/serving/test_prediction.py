"""What a prediction refuses before it loads anything, and how it groups and matches scans."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.cases.preparation import SourceRecord
from pipelines.scans.volume import Volume, VolumeError
from pipelines.serving.prediction import find_scans, nearest_source, predict
from tests.conftest import save

SOURCES = {
    "acdc": SourceRecord(("CINE",), ("left_ventricle",), (10.0, 1.5, 1.5), (10.0, 1.5, 1.5)),
    "brats": SourceRecord(("FLAIR", "T1CE"), ("tumour_oedema",), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0)),
    "knees": SourceRecord(("CINE",), ("left_ventricle",), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
}


@pytest.mark.parametrize(
    ("model", "labels_of", "told"),
    [
        ("medsegformer", None, "must look like models:/NAME@ALIAS"),
        ("models:/medsegformer", None, "must look like models:/NAME@ALIAS"),
        ("models:/medsegformer@champion", "spleen", "is not a label contract; known: acdc"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_loaded(
    tmp_path: Path, model: str, labels_of: str | None, told: str
) -> None:
    scan = save(tmp_path / "scan.nii.gz", np.ones((4, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=told):
        predict(scan, tmp_path / "out.nii.gz", model, labels_of)


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no NIfTI scan"):
        predict(tmp_path, tmp_path / "out", "models:/medsegformer@champion")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        predict(tmp_path / "gone", tmp_path / "out", "models:/medsegformer@champion")


def test_sequences_of_one_name_are_one_scan_and_labels_are_no_scans(tmp_path: Path) -> None:
    for name in ("a_flair", "a_t1", "a_t1ce", "a_seg", "b", "c_gt"):
        save(tmp_path / f"{name}.nii.gz", np.ones((2, 2, 2), np.uint8))
    found = find_scans(tmp_path)
    assert {name: sorted(files) for name, files in found.items()} == {"a": ["FLAIR", "T1", "T1CE"], "b": [""]}


def test_scans_of_one_name_in_two_folders_are_two_scans(tmp_path: Path) -> None:
    for name in ("case_1/imaging", "case_2/imaging"):
        save(tmp_path / f"{name}.nii.gz", np.ones((2, 2, 2), np.uint8))
    assert set(find_scans(tmp_path)) == {"case_1/imaging", "case_2/imaging"}


def test_one_scan_stored_twice_is_refused(tmp_path: Path) -> None:
    for suffix in (".nii", ".nii.gz"):
        save(tmp_path / f"a{suffix}", np.ones((2, 2, 2), np.uint8))
    with pytest.raises(ValueError, match="are the same scan twice"):
        find_scans(tmp_path)


def volume(*spacing_mm: float) -> Volume:
    d, h, w = spacing_mm
    return Volume(np.zeros((2, 2, 2), np.float32), (d, h, w), np.eye(4), (2, 2, 2))


def test_a_scan_is_met_as_the_training_source_most_like_it() -> None:
    assert nearest_source(SOURCES, {"CINE": volume(8, 1.4, 1.4)}) == "acdc"
    assert nearest_source(SOURCES, {"CINE": volume(1, 0.9, 0.9)}) == "knees"
    assert nearest_source(SOURCES, {"FLAIR": volume(10, 1.5, 1.5)}) == "brats"


def test_a_modality_that_was_never_trained_is_refused() -> None:
    with pytest.raises(VolumeError, match="modality CT was not trained; the model knows CINE, FLAIR, T1CE"):
        nearest_source(SOURCES, {"CT": volume(1, 1, 1)})
