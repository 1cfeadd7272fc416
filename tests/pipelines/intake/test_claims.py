"""Scans that lie there are read, or it is said that they are not."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.intake import claims, raw_folder
from pipelines.sources import readers
from pipelines.sources.likeness import nearest_layout
from tests.conftest import save


def touch(folder: Path, *names: str) -> None:
    for name in names:
        save(folder / name, np.ones((2, 2, 2), np.uint8))


def nnunet(folder: Path) -> None:
    touch(folder, "Dataset001_A/imagesTr/a_0000.nii.gz", "Dataset001_A/labelsTr/a.nii.gz")
    touch(folder, "Dataset001_A/imagesTr/b_0000.NII.GZ", "Dataset001_A/labelsTr/b.NII.GZ")
    index = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "spleen": 1}, "file_ending": ".nii.gz"}
    (folder / "Dataset001_A" / "dataset.json").write_text(json.dumps(index))


def test_scans_of_a_layout_that_sources_leave_out_are_counted(tmp_path: Path) -> None:
    nnunet(tmp_path)
    touch(tmp_path, "case_00001/imaging.nii.gz", "case_00001/segmentation.nii.gz")
    found = claims.unread_below(tmp_path, ("kits", "phantom"))
    assert found == claims.Unread({"nnunet": 2}, [], [])
    assert found.remedy(("kits", "phantom")) == "--set 'data.sources=[kits, phantom, nnunet]'"
    assert claims.unread_below(tmp_path, ("kits", "nnunet")).scans == {}


def test_packed_files_and_other_formats_are_counted_and_tables_are_not(tmp_path: Path) -> None:
    for name in ("1.2.840.1.dcm.gz", "IM0001.GZ", "export.zip", "a.nrrd", "sub-1_physio.tsv.gz", "notes.txt", "b.dcm"):
        (tmp_path / name).touch()
    found = claims.unread_below(tmp_path, tuple(readers())).packed
    assert found == ["1.2.840.1.dcm.gz", "IM0001.GZ", "a.nrrd", "export.zip"]


def test_files_of_no_layout_are_counted_whatever_the_case_of_their_ending(tmp_path: Path) -> None:
    touch(tmp_path, "brats/BraTS-GLI-0-t2f.nii.gz", "lits/volume-a.nii")
    save(tmp_path / "flat/0.nii.gz", np.ones((2, 2, 2), np.uint8)).rename(tmp_path / "flat/0.NII.GZ")
    found = claims.unread_below(tmp_path, tuple(readers())).unclaimed
    assert found == ["brats/BraTS-GLI-0-t2f.nii.gz", "flat/0.NII.GZ", "lits/volume-a.nii"]


@pytest.mark.parametrize(
    ("path", "layout"),
    [
        ("BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz", "brats"),
        ("p1/p1-t2f.nii.gz", "brats"),
        ("sub-01/x.nii.gz", "bids"),
        ("patient001/patient001_4d.nii.gz", "acdc"),
        ("a/imaging.nii.gz", "kits"),
        ("lits/volume_0.nii.gz", "lits"),
        ("a/ct.nii.gz", "totalsegmentator"),
        ("a/segmentations/spleen.nii.gz", "totalsegmentator"),
        ("Images/0.nii.gz", "pairs"),
        ("0.nii.gz", "pairs"),
        ("x_0000.nii.gz", "nnunet"),
    ],
)
def test_the_nearest_layout_is_named(path: str, layout: str) -> None:
    assert nearest_layout(path)[0] == layout


def test_a_folder_that_would_be_ignored_is_refused_with_the_remedy(tmp_path: Path) -> None:
    nnunet(tmp_path / "own")
    told = (
        r"--data would be ignored: .*\[phantom\].* holds 2 scans of layout nnunet; add --set 'data.sources=\[nnunet\]'"
    )
    with pytest.raises(ValueError, match=told):
        raw_folder.refuse_unread(tmp_path / "own", ("phantom",))
    with pytest.raises(ValueError, match=r"data.sources \[msd, kits\] reads nothing of it"):
        raw_folder.refuse_unread(tmp_path / "own", ("msd", "kits"))
    touch(tmp_path / "flat", "0.nii.gz")
    with pytest.raises(ValueError, match=r"no scan in a known layout; `medseg data check .*flat` says more"):
        raw_folder.refuse_unread(tmp_path / "flat", ("nnunet",))
    raw_folder.refuse_unread(tmp_path / "own", ("msd", "nnunet"))
    raw_folder.refuse_unread(tmp_path / "flat", ("dicom",))
