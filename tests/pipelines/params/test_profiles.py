"""Profiles replace params.yaml whole; data/raw is linked, never overwritten."""

import shutil
from pathlib import Path

import pytest

from pipelines import params
from pipelines.intake import raw_folder
from pipelines.params import profiles

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "profiles").mkdir()
    shutil.copy(REPOSITORY / "profiles/smoke.yaml", tmp_path / "profiles/smoke.yaml")
    monkeypatch.setenv("MEDSEG_ROOT", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", sorted(file.stem for file in (REPOSITORY / "profiles").glob("*.yaml")))
def test_every_profile_of_the_project_is_valid(name: str) -> None:
    assert params.load(REPOSITORY / "profiles" / f"{name}.yaml")


def test_use_copies_the_profile_and_keeps_what_was_ones_own(project: Path) -> None:
    assert profiles.use("smoke") is None
    assert profiles.in_use() == "smoke"
    (project / "params.yaml").write_text("of my own")
    kept = profiles.use("smoke")
    assert kept is not None
    assert kept.read_text() == "of my own"
    assert (project / "params.yaml").read_bytes() == (project / "profiles/smoke.yaml").read_bytes()
    assert sorted(file.name for file in project.iterdir()) == [".medseg", "dvc.yaml", "params.yaml", "profiles"]


def test_invalid_profile_changes_nothing(project: Path) -> None:
    profiles.use("smoke")
    (project / "profiles/broken.yaml").write_text("data: {}")
    with pytest.raises(params.ParamsError, match="broken"):
        profiles.use("broken")
    assert profiles.in_use() == "smoke"


def test_unknown_profile_is_refused_with_the_known_ones(project: Path) -> None:
    with pytest.raises(ValueError, match="no profile 'huge'; known: smoke"):
        profiles.use("huge")


def test_link_points_to_the_folder_and_may_move(project: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        raw_folder.link(tmp_path / name)
        assert (project / "data/raw").readlink() == tmp_path / name
    assert [file.name for file in (project / "data").iterdir()] == ["raw"]


def test_link_takes_the_place_of_an_empty_folder_only(project: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/scan.nii.gz").touch()
    with pytest.raises(ValueError, match="scans of its own"):
        raw_folder.link(tmp_path / "scans")
    (project / "data/raw/scan.nii.gz").unlink()
    raw_folder.link(tmp_path / "scans")
    assert (project / "data/raw").is_symlink()


def test_link_to_no_folder_is_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        raw_folder.link(tmp_path / "absent")
