"""`medseg evaluate` and `medseg compare` as people type them."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from flows.commands.medseg import app


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    """Outside of any project: two label maps and their references."""
    label = np.zeros((12, 12, 12), np.uint8)
    label[3:9, 3:9, 3:9] = 1
    for folder in ("predictions", "references"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    return str(tmp_path / "predictions"), str(tmp_path / "references")


def test_anybodys_label_maps_are_measured_outside_of_a_project(
    folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["evaluate", *folders, "--labels", "1=liver", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["structures"]["liver"]["dice"].keys() >= {"mean", "low", "high", "n"}
    assert found["structures"]["liver"]["surface_dice"]["mean"] == 1
    assert (tmp_path / "evaluation/index.html").is_file()
    told = CliRunner().invoke(app, ["evaluate", *folders, "--to", "second"])
    assert "label_1" in told.stdout
    assert "Report: " in told.stdout


def test_a_case_that_cannot_be_measured_ends_the_command_with_1(folders: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "predictions/b.nii.gz").unlink()
    done = CliRunner().invoke(app, ["evaluate", *folders, "--to", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert (tmp_path / "out/metrics.json").is_file()


def test_both_say_what_they_do() -> None:
    for command, words in (("evaluate", "nothing is dropped silently"), ("compare", "same held-out scans")):
        assert words in " ".join(CliRunner().invoke(app, [command, "--help"]).stdout.split())
