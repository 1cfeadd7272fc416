"""A folder that is to be segmented may have any layout that training reads."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.cases.preparation import CTScale, Preprocessing, SourceRecord
from pipelines.scans.volume import VolumeError
from pipelines.scans.volume_geometry import Outline
from pipelines.serving.as_trained import meet
from pipelines.serving.scan_search import find_scans
from tests.conftest import save


def touch(folder: Path, *names: str) -> None:
    for name in names:
        save(folder / f"{name}.nii.gz", np.ones((2, 2, 2), np.uint8))


def found(folder: Path) -> dict[str, list[str]]:
    return {name: sorted(files) for name, files in find_scans(folder).items()}


def test_bids_labels_and_masks_are_no_scans_and_contrasts_are_one(tmp_path: Path) -> None:
    anat = "sub-01/anat/sub-01"
    touch(tmp_path, *(f"{anat}_{name}" for name in ("T1w", "T2w", "FLAIR", "ce-gadolinium_T1w", "desc-brain_mask")))
    touch(tmp_path, "derivatives/x/sub-01/anat/sub-01_dseg", "derivatives/x/sub-01/anat/sub-01_space-MNI_dseg")
    touch(tmp_path, "sub-01/func/sub-01_task-rest_bold")
    assert found(tmp_path) == {"sub-01/anat/sub-01": ["FLAIR", "T1", "T1CE", "T2"]}


def test_brats_of_every_year_is_read_with_any_subset_of_its_sequences(tmp_path: Path) -> None:
    touch(tmp_path, *(f"BraTS-GLI-00001-000/BraTS-GLI-00001-000-{name}" for name in ("t2f", "t1c", "seg")))
    touch(tmp_path, *(f"BraTS20_001/BraTS20_001_{name}" for name in ("t1", "t1ce", "seg")))
    touch(tmp_path, "alone_t1")
    assert found(tmp_path) == {
        "BraTS-GLI-00001-000/BraTS-GLI-00001-000": ["FLAIR", "T1CE"],
        "BraTS20_001/BraTS20_001": ["T1", "T1CE"],
        "alone": ["T1"],
    }


def nnunet(folder: Path, labels: object) -> None:
    touch(folder, *(f"imagesTs/a_{number:04d}" for number in range(2)), "imagesTr/b_0000", "imagesTr/b_0001")
    touch(folder, "labelsTr/b")
    index = {"channel_names": {"0": "T1Gd", "1": "FLAIR"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(index))


@pytest.mark.parametrize("labels", [{"background": 0, "spleen": 1}, {"background": 0, "nobody knows": 1}])
def test_nnunets_channels_are_known_by_the_index_whatever_its_labels_are(tmp_path: Path, labels: object) -> None:
    nnunet(tmp_path / "Dataset001_A", labels)
    assert found(tmp_path / "Dataset001_A") == {"imagesTr/b": ["FLAIR", "T1CE"], "imagesTs/a": ["FLAIR", "T1CE"]}
    assert found(tmp_path / "Dataset001_A/imagesTs") == {"a": ["FLAIR", "T1CE"]}


def test_channels_without_an_index_are_one_scan_and_years_are_none(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000", "a_0001", "b_0000", "liver_2021", "liver_2022")
    assert found(tmp_path) == {"a": ["0", "1"], "b": ["0"], "liver_2021": [""], "liver_2022": [""]}


def test_volumes_masks_and_pairs_of_folders(tmp_path: Path) -> None:
    touch(tmp_path, "s0001/ct", "s0001/segmentations/spleen", "s0002/mri", "case_00001/imaging")
    touch(tmp_path, "volume-0", "segmentation-0", "own/images/x", "own/labels/x")
    touch(tmp_path, "patient001/patient001_frame01", "patient001/patient001_frame01_gt", "patient001/patient001_4d")
    assert found(tmp_path) == {
        "case_00001/imaging": ["CT"],
        "own/images/x": ["0"],
        "patient001/patient001_frame01": ["CINE"],
        "s0001/ct": ["CT"],
        "s0002/mri": ["MR"],
        "volume-0": ["CT"],
    }


def test_a_4d_file_of_the_decathlon_is_one_scan_of_its_channels(tmp_path: Path) -> None:
    save(tmp_path / "imagesTs/prostate_00.nii.gz", np.ones((2, 2, 2, 2), np.uint8))
    index = {
        "name": "P",
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"1": "PZ"},
        "training": [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}],
        "test": ["./imagesTs/prostate_00.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    files = find_scans(tmp_path)["imagesTs/prostate_00"]
    assert {role: path.name for role, path in files.items()} == {
        "T2": "prostate_00.nii.gz#0",
        "ADC": "prostate_00.nii.gz#1",
    }


def test_what_channels_show_can_be_said_in_their_order() -> None:
    outlines = {str(number): Outline((2, 2, 2), (1.0, 1.0, 1.0), "") for number in range(2)}
    trained = SourceRecord(("FLAIR", "T1"), ("spleen",), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    plan = Preprocessing(CTScale(-100, 300, 50, 60), {"own": trained})
    assert list(meet(plan, outlines, "FLAIR, T1").scan) == ["FLAIR", "T1"]
    with pytest.raises(VolumeError, match=r"do not say what its 2 channels show.*--modality T1,FLAIR"):
        meet(plan, outlines, "T1")
    with pytest.raises(VolumeError, match="two files of one scan are T1; keep one"):
        meet(plan, outlines, "T1,T1")
    assert list(meet(plan, {"0": outlines["0"]}, "T1").scan) == ["T1"]
