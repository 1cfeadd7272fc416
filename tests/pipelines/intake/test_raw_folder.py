"""Whether raw files changed since the inventory: asked often, so it must be quick, and right. And the link to them."""

import os
from pathlib import Path

import pytest

from pipelines.intake import raw_folder
from pipelines.stages import inventory
from tests.pipelines.stages.test_preprocess import state


@pytest.fixture
def listed(cohort: Path) -> Path:
    state()
    inventory.main()
    return cohort


def test_nothing_changed_is_remembered_without_hashing_again(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not raw_folder.changed()
    monkeypatch.setattr(raw_folder, "_differs", lambda _: pytest.fail("looked into the files again"))
    assert not raw_folder.changed()


@pytest.mark.parametrize("change", ["content", "new", "gone", "folder", "unreadable link"])
def test_a_change_is_seen(listed: Path, change: str) -> None:
    assert not raw_folder.changed()
    scan = listed / "patient004/patient004_frame01.nii.gz"
    if change == "content":
        before = scan.stat()
        scan.write_bytes(scan.read_bytes()[:-1] + b"!")
        os.utime(scan, ns=(before.st_atime_ns, before.st_mtime_ns))  # the change of its inode stays
    elif change == "new":
        (scan.parent / "notes.txt").write_text("new")
    elif change == "gone":
        scan.unlink()
    elif change == "folder":
        scan.parent.rename(listed / "patient099")
    else:
        (scan.parent / "link.nii.gz").symlink_to("nowhere")
    assert raw_folder.changed()


def test_a_touched_file_of_the_same_content_is_no_change(listed: Path) -> None:
    assert not raw_folder.changed()
    next(listed.rglob("*_gt.nii.gz")).touch()
    assert not raw_folder.changed()


def test_another_inventory_is_asked_anew(listed: Path) -> None:
    assert not raw_folder.changed()
    (listed / "patient004/patient004_frame01.nii.gz").unlink()
    inventory.main()
    assert not raw_folder.changed()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDSEG_ROOT", str(tmp_path))
    return tmp_path


def test_link_points_to_the_folder_and_may_move(project: Path) -> None:
    for name in ("first", "second"):
        (project / name).mkdir()
        raw_folder.link(project / name)
        assert (project / "data/raw").readlink() == project / name
    assert [file.name for file in (project / "data").iterdir()] == ["raw"]


def test_link_takes_the_place_of_an_empty_folder_only(project: Path) -> None:
    (project / "scans").mkdir()
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/scan.nii.gz").touch()
    with pytest.raises(ValueError, match="scans of its own"):
        raw_folder.link(project / "scans")
    (project / "data/raw/scan.nii.gz").unlink()
    raw_folder.link(project / "scans")
    assert (project / "data/raw").is_symlink()


def test_link_to_no_folder_is_refused(project: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        raw_folder.link(project / "absent")
