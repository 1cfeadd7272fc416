"""`medseg init`: what is written, and that nothing of anybody's is changed."""

import os
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows import new_project
from pipelines import params
from pipelines.params import profiles
from pipelines.work import project
from tests.conftest import REPOSITORY

WRITTEN = {
    "dvc.yaml", "params.yaml", "structures.yaml", "README.md", ".gitignore", ".dvc/config",
    ".dvc/.gitignore", "release/plan.yaml", "release/card.yaml",
}  # fmt: skip
OLDER = "stages: {}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a project is to be."""
    monkeypatch.setenv("MEDSEG_ROOT", str(tmp_path / "heart"))
    return tmp_path / "heart"


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and ".git" not in file.relative_to(folder).parts)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def as_written_by(version: str, body: str) -> str:
    return new_project.HEAD.format(version, new_project._sha256(body)) + body


@pytest.mark.parametrize("profile", [None, "own"])
def test_a_new_folder_becomes_a_project(folder: Path, profile: str | None) -> None:
    made = new_project.make(folder, profile)
    assert (made.is_new, set(made.written), made.kept, made.remarks) == (True, WRITTEN, [], [])
    assert set(contents(folder)) == WRITTEN
    assert (folder / ".git").is_dir()
    assert params.load(folder / "params.yaml") == profiles.settings(profile or "smoke")
    assert (folder / "dvc.yaml").read_text().endswith((REPOSITORY / "dvc.yaml").read_text())
    assert not YAML(typ="safe").load(folder / "structures.yaml")


def test_a_repeat_changes_nothing_even_with_upgrade(folder: Path) -> None:
    new_project.make(folder)
    (folder / "params.yaml").write_text("of my own")
    (folder / "dvc.yaml").write_text((folder / "dvc.yaml").read_text() + "# mine\n")
    before = contents(folder)
    made = new_project.make(folder, "own", upgrade=True)
    assert (made.is_new, made.written, set(made.kept)) == (False, [], WRITTEN)
    assert contents(folder) == before
    first, second = made.remarks
    assert first == f"dvc.yaml was changed here and stays; the program's is {REPOSITORY / 'dvc.yaml'}"
    assert second == "params.yaml stays; `medseg profile use own` puts the profile in its place"


def test_a_repeat_finishes_what_was_cut_off(folder: Path) -> None:
    new_project.make(folder)
    (folder / "params.yaml").unlink()
    shutil.rmtree(folder / ".dvc")
    assert set(new_project.make(folder, "own").written) == {"params.yaml", ".dvc/config", ".dvc/.gitignore"}
    assert profiles.in_use() == "own"


def test_upgrade_renews_what_an_older_version_wrote_and_nobody_changed(folder: Path) -> None:
    new_project.make(folder)
    (folder / "dvc.yaml").write_text(as_written_by("0.0.9", OLDER))
    made = new_project.make(folder)
    assert made.remarks == [f"dvc.yaml is that of version 0.0.9; `medseg init {folder} --upgrade` renews it"]
    assert (folder / "dvc.yaml").read_text() == as_written_by("0.0.9", OLDER)
    assert new_project.make(folder, upgrade=True).written == ["dvc.yaml"]
    assert (folder / "dvc.yaml").read_text().endswith((REPOSITORY / "dvc.yaml").read_text())
    (folder / "dvc.yaml").write_text(as_written_by("0.0.9", OLDER) + "# mine\n")
    assert new_project.make(folder, upgrade=True).written == []


def test_the_source_checkout_is_a_project_with_the_programs_own_files() -> None:
    made = new_project.Made(is_new=False)
    for name, shipped in new_project.RENEWED.items():
        new_project._renew(REPOSITORY / name, (project.SHIPPED / shipped).read_text(), False, made)
    assert (made.kept, made.remarks) == (["dvc.yaml"], [])


def test_a_folder_with_files_is_refused_and_none_is_named(folder: Path) -> None:
    folder.mkdir()
    (folder / "Quennevault.nii.gz").touch()
    with pytest.raises(ValueError, match="is neither empty nor a project; name a new folder") as refused:
        new_project.make(folder)
    assert "Quennevault" not in str(refused.value)
    assert [file.name for file in folder.iterdir()] == ["Quennevault.nii.gz"]


def test_a_folder_inside_a_project_is_refused(folder: Path) -> None:
    new_project.make(folder)
    with pytest.raises(ValueError, match=f"/sub lies inside the project {folder}; name a folder outside"):
        new_project.make(folder / "sub")


def test_an_empty_repository_is_used_and_so_is_one_around(folder: Path) -> None:
    (folder / ".git").mkdir(parents=True)
    new_project.make(folder)
    assert list((folder / ".git").iterdir()) == []
    (folder.parent / "around/.git").mkdir(parents=True)
    new_project.make(folder.parent / "around/lung")
    assert not (folder.parent / "around/lung/.git").exists()


def test_nothing_is_written_where_git_is_missing_or_the_profile_unknown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="no profile 'huge'; known: "):
        new_project.make(folder, "huge")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ValueError, match="git is not installed, and DVC works in a git repository only; install it"):
        new_project.make(folder)
    assert not folder.exists()
