"""Which scans lie in a folder, where their label maps go, and what is refused before anything is loaded."""

import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.scans.volume import write_label
from pipelines.serving.requests import requests
from pipelines.serving.scan_search import MADE_HERE, find_scans
from tests.conftest import save


def scan(path: Path) -> Path:
    return save(path, np.ones((2, 2, 2), np.uint8))


def test_sequences_of_one_name_are_one_scan_and_labels_are_no_scans(tmp_path: Path) -> None:
    for name in ("a_flair", "a_t1", "a_t1ce", "a_seg", "b", "c_gt"):
        scan(tmp_path / f"{name}.nii.gz")
    found = find_scans(tmp_path)
    assert {name: sorted(files) for name, files in found.items()} == {"a": ["FLAIR", "T1", "T1CE"], "b": [""]}


def test_scans_of_one_name_in_two_folders_are_two_scans(tmp_path: Path) -> None:
    for name in ("case_1/imaging", "case_2/imaging"):
        scan(tmp_path / f"{name}.nii.gz")
    assert set(find_scans(tmp_path)) == {"case_1/imaging", "case_2/imaging"}


def test_a_scan_is_told_of_as_published_or_by_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("Task04_Hippocampus/imagesTr/hippocampus_001", "Miller/ct", "anna_miller_flair", "anna_miller_t1"):
        scan(folder / f"{name}.nii.gz")
    told = {next(iter(each.files.values())).name: each.told_as for each in requests(folder, tmp_path / "out")}
    assert told == {
        "ct.nii.gz": "scan 1",
        "hippocampus_001.nii.gz": "Task04_Hippocampus/imagesTr/hippocampus_001",
        "anna_miller_flair.nii.gz": "scan 3",
    }
    (alone,) = requests(folder / "Miller/ct.nii.gz", tmp_path / "out.nii.gz")
    assert alone.told_as == "ct"


def test_one_scan_stored_twice_is_refused(tmp_path: Path) -> None:
    for suffix in (".nii", ".nii.gz"):
        scan(tmp_path / f"a{suffix}")
    with pytest.raises(ValueError, match="are the same scan twice"):
        find_scans(tmp_path)


def test_endings_in_capitals_are_seen(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii.gz").rename(tmp_path / "a.NII.GZ")
    assert set(find_scans(tmp_path)) == {"a"}


def test_label_maps_that_were_written_here_are_no_scans(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii.gz")
    write_label(tmp_path / "b.nii.gz", np.ones((2, 2, 2), np.uint8), np.eye(4), f"{MADE_HERE} 0")
    assert set(find_scans(tmp_path)) == {"a"}
    with pytest.raises(ValueError, match="wrote, no scan"):
        find_scans(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("target", ["in", "in/out", "in/../in", "link"])
def test_an_output_among_the_inputs_is_refused(tmp_path: Path, target: str) -> None:
    scan(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(ValueError, match=r"lies in INPUT .*; name a folder outside, such as .*in-labels"):
        requests(tmp_path / "in", tmp_path / target)


def test_a_scan_is_never_its_own_output(tmp_path: Path) -> None:
    source = scan(tmp_path / "a.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(source)
    os.link(source, tmp_path / "same.nii.gz")
    for target in ("a.nii.gz", "link.nii.gz", "same.nii.gz", "."):
        with pytest.raises(ValueError, match=r"is the scan .* itself; name another OUTPUT"):
            requests(source, tmp_path / target)


def test_an_input_that_is_a_link_is_not_replaced_where_it_leads(tmp_path: Path) -> None:
    real = scan(tmp_path / "out" / "a.nii.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").symlink_to(real)
    with pytest.raises(ValueError, match="itself"):
        requests(tmp_path / "in", tmp_path / "out")


def test_an_ending_that_is_not_written_is_refused(tmp_path: Path) -> None:
    source = scan(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(ValueError, match=r"out\.mha: label maps are written as \.nii\.gz or \.nii"):
        requests(source, tmp_path / "out.mha")
    with pytest.raises(ValueError, match="must be a folder, since INPUT is one"):
        requests(tmp_path / "in", tmp_path / "out.nii.gz")
    assert requests(source, tmp_path / "out.nii")[0].target == tmp_path / "out.nii"
    assert requests(source, tmp_path / "out")[0].target == tmp_path / "out" / "a.nii.gz"


def test_a_name_ends_in_what_people_call_a_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "modalities.yaml").write_text("my_sequence: {kind: MR}\n")
    monkeypatch.chdir(tmp_path)
    for name in ("a_T1w", "a_t1_gado", "a_my_sequence", "b_thing"):
        scan(tmp_path / "in" / f"{name}.nii.gz")
    found = find_scans(tmp_path / "in")
    assert {name: sorted(files) for name, files in found.items()} == {
        "a": ["T1", "T1CE", "my_sequence"],
        "b_thing": [""],
    }
    scan(tmp_path / "in" / "a_t1.nii.gz")
    with pytest.raises(ValueError, match="are the same scan twice"):
        find_scans(tmp_path / "in")
