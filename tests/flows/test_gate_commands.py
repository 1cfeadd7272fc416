"""`medseg gate` as people type it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from flows import show_gate
from pipelines.evaluation import tables
from pipelines.release import gate, plan
from tests.conftest import REPOSITORY
from tests.in_process import medseg
from tests.pipelines.release.test_gate import PLAN, cohort, shifted
from tests.pipelines.release.test_power import version


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """With an evaluation of 60 patients and a plan, and no more."""
    for name in ("params.yaml", "release/plan.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "reports/evaluate").mkdir(parents=True)
    tables.write(tmp_path / "reports/evaluate", version(1))
    return tmp_path


def test_power_is_told_before_any_version_is_there(project: Path) -> None:
    told = medseg(project, "gate", "power", "--patients", "41", "--page", "power.html", "--json")
    assert told.exit_code == 0, told.stderr
    found = json.loads(told.stdout)
    assert (found["patients"], found["agreement"]) == (60, 0.7)
    assert {rate["patients"] for rate in found["rates"]} == {41}
    page = (project / "power.html").read_text()
    assert page.count("<polyline") == 1
    assert "all together" in page
    assert "correlation of 0.7" in page


def test_power_for_people_is_a_table(project: Path) -> None:
    told = medseg(project, "gate", "power", "--patients", "41", "--against", "reports/evaluate/cases.parquet")
    assert told.exit_code == 0, told.stderr
    assert "all together" in told.stdout
    assert told.stdout.rstrip().endswith("told from the figures of 60 patients by two versions.")


def test_the_plan_is_shown_with_its_digest(project: Path) -> None:
    told = json.loads(medseg(project, "gate", "plan", "--json").stdout)
    assert told["plan_sha256"] == plan.digest(plan.parse(told["text"]))
    assert told["signed"] is None
    (project / "release/plan.yaml").write_text("level: 1\n")
    refused = medseg(project, "gate", "plan")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("medseg: release/plan.yaml: ")
    assert len(refused.stderr.splitlines()) == 1


def test_an_approver_puts_the_plan_in_force(project: Path) -> None:
    key = project / "approver"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    added = medseg(project, "signers", "add", "ada@example.org", f"{key}.pub", "--role", "approver")
    assert added.exit_code == 0, added.stderr
    assert medseg(project, "signers", "sign", "--key", str(key)).exit_code == 0
    signed = medseg(project, "gate", "plan", "--sign", str(key), "--json")
    assert signed.exit_code == 0, signed.stderr
    told = json.loads(signed.stdout)
    assert told["signed"] == told["plan_sha256"]
    again = medseg(project, "gate", "plan", "--sign", str(key))
    assert again.exit_code == 1
    assert "in force for medsegformer already" in again.stderr


def test_a_verdict_is_told_with_every_check_and_its_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    worse = gate.decide(cohort(shifted(0.05)), cohort(), PLAN, 2).to_json()
    show_gate.verdict({"version": "heart 4", "alias": "champion", "champion": "heart 3", **worse})
    told = capsys.readouterr().out
    assert "no worse than the champion" in told
    assert "kidney: gain in Dice over the champion -0.05" in told
    assert told.rstrip().endswith("heart 4 as champion, against heart 3: fails")
