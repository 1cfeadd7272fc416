"""What is put before the gate: dossiers, the release plan and whether it was there in time, looks at the test set.

ask(candidate, champion, signed_plan_sha256) -> Verdict
"""

from pathlib import Path
from typing import Any

from pipelines.release import audit, gate, looks, plan
from pipelines.release.gate import Check, Verdict
from pipelines.release.measurement import RECORD, measured, read_json

NAME = "plan noted before training"


def ask(candidate: Path, champion: Path | None, signed_plan_sha256: str | None) -> Verdict:
    """`candidate`, `champion`: their dossiers, found whole. `signed_plan_sha256`: of the plan that an approver signed
    last, as the ledger has it, if any. Raises ValueError if a file of them, or the plan, cannot be read."""
    found, decided_by = measured(candidate), plan.read()
    before = None if champion is None else measured(champion)
    checks = gate.checks(found, before, decided_by, looks.count(found.test_set_sha256))
    noted = noted_plans(read_json(candidate / RECORD)["identity"])
    return gate.judge([in_force(plan.digest(decided_by), noted, signed_plan_sha256), *checks])


def in_force(plan_sha256: str, noted: list[str], signed_plan_sha256: str | None) -> Check:
    """Nobody chooses the floors once the figures are known: the plan is the one that an approver signed last, or, where
    none was ever signed, the one that training noted when it began. `noted`: at each of its beginnings."""
    if signed_plan_sha256 == plan_sha256 or (signed_plan_sha256 is None and set(noted) == {plan_sha256}):
        return Check(NAME, gate.PASSES)
    if signed_plan_sha256 is not None:
        other = f"an approver signed {signed_plan_sha256[:12]}"
    elif noted:
        other = f"training noted {next(each for each in noted if each != plan_sha256)[:12]}"
    else:
        other = "this project's audit log knows of no training that noted one"
    remedy = "bring that plan back, or have this one signed by an approver (`medseg gate plan --sign KEY`)"
    return Check(NAME, gate.FAILS, reason=f"{plan.FILE} is {plan_sha256[:12]}, {other}; {remedy}")


def noted_plans(identity: dict[str, Any]) -> list[str]:
    """Plans noted by trainings of this identity, whenever they began or went on."""
    return [
        str(line.facts.get("plan_sha256", ""))
        for line in audit.read(("train.start",))
        if line.facts.get("identity") == identity
    ]
