"""A result is traced to two commits, the project's and the program's; of an installed program to version and code."""

import subprocess
from pathlib import Path

import pytest

from pipelines.release import run_identity
from pipelines.work import code


def repository(folder: Path) -> str:
    """With code and parameters in it; its commit."""
    for name in ("pipelines/a.py", "dvc.yaml", "params.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1\n")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", folder.name],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_project_and_program_have_a_commit_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, checkout = repository(tmp_path / "project"), repository(tmp_path / "checkout")
    monkeypatch.setenv("MEDSEG_ROOT", str(tmp_path / "project"))
    monkeypatch.setattr(run_identity, "HERE", tmp_path / "checkout")
    here = run_identity.processor()
    assert run_identity.origin() == {"git_commit": project, "program": checkout, "processor": here}
    people = run_identity.people(f"{project}-dirty")
    assert (people["author"], people["committer"]) == ("t@t", "t@t")
    (tmp_path / "checkout/pipelines/a.py").write_text("2\n")
    (tmp_path / "project/params.yaml").write_text("2\n")  # hashed by itself
    assert run_identity.origin() == {"git_commit": project, "program": f"{checkout}-dirty", "processor": here}
    (tmp_path / "project/dvc.yaml").write_text("2\n")
    assert run_identity.origin()["git_commit"] == f"{project}-dirty"


def test_an_environment_inside_a_repository_is_not_of_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path / "project")
    (tmp_path / "project/.venv").mkdir()
    monkeypatch.setattr(run_identity, "HERE", tmp_path / "project/.venv")
    assert run_identity.program() == f"0.1.0+{code.of_program()[:12]}"


def test_the_processor_is_told_by_model_and_number_with_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_identity, "PROC", tmp_path)
    (tmp_path / "cpuinfo").write_text("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n")
    for number in range(2):
        folder = tmp_path / f"driver/nvidia/gpus/{number}"
        folder.mkdir(parents=True)
        (folder / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 16\n")
    assert run_identity.processor() == "AMD EPYC (25 17); 2 NVIDIA H100 80GB HBM3"
