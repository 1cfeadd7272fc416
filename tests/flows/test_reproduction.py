"""A version made again from commit, parameters and scans alone: a small pipeline with real git and DVC."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows import reproduction
from pipelines.intake import listing
from pipelines.params import profiles
from pipelines.release import dossier, record, run_identity, tracking
from pipelines.work import project
from tests.conftest import REPOSITORY

MADE = """
from pathlib import Path
from tests.pipelines.release import evaluated
dice = float(Path("data/raw/dice").read_text())
evaluated.make(Path.cwd(), dice)
"""
STAGES = """stages:
  all:
    cmd: python make.py
    params: [train.steps]
    outs: [data/manifest.parquet, models/train, models/register, reports/evaluate]
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that ran once; results are in no commit."""
    root = tmp_path_factory.mktemp("template") / "project"
    (root / "data/raw").mkdir(parents=True)
    for name, text in {
        "make.py": MADE, "dvc.yaml": STAGES, "params.yaml": profiles.compose("smoke"), "data/raw/dice": "0.9",
        ".gitignore": "/data\n/models\n/reports\n/.medseg\n",
    }.items():  # fmt: skip
        (root / name).write_text(text)
    git = ("git", "-c", "user.name=Toy", "-c", "user.email=toy@example.org")
    for command in (
        (*git, "init", "-q"),
        (sys.executable, "-m", "dvc", "init", "-q"),
        (*git, "add", "-A"),
        (*git, "commit", "-qm", "Toy"),
        (sys.executable, "-m", "dvc", "repro", "-q"),
    ):
        call(root, *command)
    pq.write_table(listing.take(root / project.RAW, root / ".medseg-digests"), root / project.INVENTORY)
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that is the working folder; its version is registered as m 1."""
    root = tmp_path / "project"
    shutil.copytree(template, root, symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.delenv(tracking.VARIABLE, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr(run_identity, "program", lambda: "0.1.0+5")  # a checkout that is worked on is no commit
    dossier.note("m", 1, dossier.keep(record.read()).name)
    return root


def call(folder: Path, *command: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)


def test_a_version_is_made_again_to_the_bit_from_what_its_inventory_lists(root: Path, tmp_path: Path) -> None:
    Path("data/raw/later").write_text("a scan that came after")
    for name in ("models", "reports", "data/manifest.parquet"):
        shutil.move(name, tmp_path / f"gone-{Path(name).name}")
    lines: list[str] = []
    again = tmp_path / "again"
    found = reproduction.reproduce("models:/m/1", again, lines.append)
    assert (found["verdict"], found["same_processor"]) == (reproduction.TO_THE_BIT, True)
    assert found["outputs"]["models/train"]
    assert any("Running stage 'all'" in line for line in lines)
    assert (again / "data/raw/case_00000/imaging.nii.gz").samefile("data/raw/case_00000/imaging.nii.gz")
    assert not (again / "data/raw/later").exists()
    with pytest.raises(ValueError, match="exists, or lies inside the project; name a new folder"):
        reproduction.reproduce("models:/m/1", again, lines.append)


def test_other_scans_give_other_figures_and_it_is_said(root: Path, tmp_path: Path) -> None:
    Path("data/raw/dice").write_text("0.91")
    found = reproduction.reproduce("models:/m/1", tmp_path / "again", lambda line: None)
    assert found["verdict"] == reproduction.WITHIN
    assert not found["outputs"]["reports/evaluate"]
    assert found["dice"]["kidney"] == pytest.approx((0.8995, 0.9095))
    better = {**record.read(), "dice": {"kidney": 0.95}}
    told = {"processor": "another", "lock": {}}
    compared = reproduction.compare(told, better, tmp_path / "again")
    assert (compared["verdict"], compared["same_processor"]) == (reproduction.DIFFERS, False)


def test_a_scan_that_is_gone_or_code_that_no_commit_holds_is_refused_before_anything_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("data/raw/case_00001/segmentation.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"data/raw/case_00001/segmentation.nii.gz: no such file any more"):
        reproduction.reproduce("models:/m/1", tmp_path / "again", pytest.fail)
    assert not (tmp_path / "again").exists()
    monkeypatch.setattr(run_identity, "program", lambda: "0.2.0+6")
    with pytest.raises(ValueError, match=r"made by program 0\.1\.0\+5, this is 0\.2\.0\+6"):
        reproduction.reproduce("models:/m/1", tmp_path / "again", pytest.fail)
    Path("dvc.yaml").write_text(f"{STAGES}# changed\n")
    content = {**record.read(), "name": "dirty"}
    dossier.note("m", 2, dossier.keep(content).name)
    with pytest.raises(ValueError, match="code of the project that no commit holds"):
        reproduction.reproduce("models:/m/2", tmp_path / "again", pytest.fail)
