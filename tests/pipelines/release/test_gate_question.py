"""The plan in force, looks, and whom a version is compared with: told from the audit log and the ledger."""

from pathlib import Path

import pytest

from pipelines.release import audit, gate_question, looks, plan
from pipelines.release.gate import FAILS, PASSES
from pipelines.release.gate_question import in_force, noted_plans

OURS, LOWERED = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").touch()


@pytest.mark.parametrize(
    ("noted", "signed", "result"),
    [
        ([OURS], None, PASSES),
        ([OURS, OURS], None, PASSES),  # training was stopped, and went on
        ([LOWERED], None, FAILS),  # floors lowered after training began, in whatever commit
        ([OURS, LOWERED], None, FAILS),  # or between two parts of it
        ([""], None, FAILS),  # there was no plan
        ([], None, FAILS),  # weights of nobody knows where
        ([LOWERED], OURS, PASSES),  # an approver answers for it
        ([], OURS, PASSES),
        ([OURS], LOWERED, FAILS),  # once one was signed, none comes into force by itself
    ],
)
def test_the_plan_was_noted_before_training_or_signed_since(noted: list[str], signed: str | None, result: str) -> None:
    found = in_force(OURS, noted, signed)
    assert found.result == result
    assert (found.reason == "") == (result == PASSES)
    if result == FAILS:
        assert found.reason.startswith(f"release/plan.yaml is {OURS[:12]}, ")
        assert "`medseg gate plan --sign KEY`" in found.reason


def test_a_training_is_found_by_the_weights_it_made() -> None:
    audit.append("train.start", run="one", plan_sha256=OURS)
    audit.append("train.start", run="two", plan_sha256=LOWERED)
    audit.append("train.start", run="one", plan_sha256=OURS)
    audit.append("train", run="one", weights_sha256="1" * 64)
    audit.append("train", run="two", weights_sha256="2" * 64)
    assert noted_plans("1" * 64) == [OURS, OURS]
    assert noted_plans("2" * 64) == [LOWERED]
    assert noted_plans("3" * 64) == []


def test_every_evaluation_and_comparison_is_a_look_at_its_own_test_set() -> None:
    assert looks.count(OURS) == 0
    for event, test_set in (("evaluate", OURS), ("compare", OURS), ("evaluate", LOWERED), ("ingest", OURS)):
        audit.append(event, test_set_sha256=test_set)
    assert (looks.count(OURS), looks.count(LOWERED)) == (2, 1)


def test_the_opponent_is_the_version_in_use_or_else_the_aliass_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Told:
        def __init__(self, **holders: str) -> None:
            self.holders = holders

        def holder(self, alias: str) -> str | None:
            return self.holders.get(alias.replace("-", "_"))

    def opponent(told: Told, alias: str) -> str | None:
        return gate_question.opponent(told, alias, "ours")  # type: ignore[arg-type]

    both = Told(champion="first", clinical_candidate="second")
    assert opponent(both, "champion") == opponent(both, "clinical-candidate") == "first"
    assert opponent(Told(clinical_candidate="second"), "clinical-candidate") == "second"
    assert opponent(Told(clinical_candidate="ours"), "champion") is None
    assert opponent(Told(), "clinical-candidate") is None


def test_what_training_notes_is_what_the_gate_asks_for() -> None:
    from pipelines.release import run_identity
    from tests.conftest import REPOSITORY

    assert run_identity.plan_sha256() == ""
    plan.FILE.parent.mkdir()
    plan.FILE.write_text((REPOSITORY / plan.FILE).read_text())
    assert run_identity.plan_sha256() == plan.digest(plan.read())
