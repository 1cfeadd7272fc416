"""What is put before the gate: dossiers, the release plan and whether it was there in time, looks at the test set.

verdict = ask(candidate, champion, told.plan_sha256)        of dossiers' folders; `told`: the ledger
"""

from collections.abc import Sequence
from pathlib import Path

from pipelines.release import audit, dossier, gate, looks, plan
from pipelines.release.gate import Check, Verdict
from pipelines.release.ledger import Ledger
from pipelines.release.measurement import Measured, measured, read_json

NAME, IN_USE = "plan noted before training", "champion"


def opponent(told: Ledger, alias: str, record_sha256: str) -> str | None:
    """The version that one must be no worse than, by its record: what is in use, or else what holds the alias."""
    holder = told.holder(IN_USE) or told.holder(alias)
    return None if holder == record_sha256 else holder


def ask(candidate: Path, champion: Path | Measured | None, signed_plan_sha256: str | None) -> Verdict:
    """`candidate`, `champion`: their dossiers, found whole; of a champion that was measured on another test set, what
    it is on the candidate's (pipelines/serving/gate_check.py). `signed_plan_sha256`: of the plan that an approver
    signed last, as the ledger has it, if any. Raises ValueError if a file of them, or the plan, cannot be read."""
    found, decided_by = measured(candidate), plan.read()
    before = measured(champion) if isinstance(champion, Path) else champion
    checks = gate.checks(found, before, decided_by, looks.count(found.test_set_sha256))
    noted = noted_plans(read_json(candidate / dossier.RECORD)["weights_sha256"])
    return gate.judge([in_force(plan.digest(decided_by), noted, signed_plan_sha256), *checks])


def in_force(plan_sha256: str, noted: Sequence[str], signed_plan_sha256: str | None) -> Check:
    """Nobody chooses the floors once the figures are known: the plan is the one that an approver signed last, or, where
    none was ever signed, the one that training noted when it began. `noted`: at each of its beginnings."""
    if signed_plan_sha256 == plan_sha256 or (signed_plan_sha256 is None and set(noted) == {plan_sha256}):
        return Check(NAME, gate.PASSES)
    if signed_plan_sha256 is not None:
        other = f"an approver signed {signed_plan_sha256[:12]}"
    elif noted:
        other = f"training noted {next(each for each in noted if each != plan_sha256)[:12] or 'none'}"
    else:
        other = "this project's audit log knows of no training of these weights that noted one"
    remedy = "bring that plan back, or have this one signed by an approver (`medseg gate plan --sign KEY`)"
    return Check(NAME, gate.FAILS, reason=f"{plan.FILE} is {plan_sha256[:12]}, {other}; {remedy}")


def noted_plans(weights_sha256: str) -> list[str]:
    """Plans noted by the training that made these weights, whenever it began or went on; empty words for none."""
    return [facts["plan_sha256"] for facts in audit.beginnings(weights_sha256)]
