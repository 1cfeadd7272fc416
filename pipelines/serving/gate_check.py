"""May this version have this alias? All that the gate asks, of artifacts bound by hash: `medseg gate check`.

check("models:/NAME/3", "champion") -> GateAnswer
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.release import audit, dossier, gate, gate_question, plan, record, registry
from pipelines.release.gate import Check, Measured, Verdict
from pipelines.release.registry import RegisteredModel
from pipelines.scans import manifest
from pipelines.serving import remeasuring
from pipelines.serving.conditions import Conditions
from pipelines.serving.held_out import segment_and_measure
from pipelines.serving.remeasuring import Remeasured
from pipelines.work import project
from pipelines.work.memory import GIB, free_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GateAnswer:
    """`champion`: the version that it was compared with, if any."""

    version: RegisteredModel
    alias: str
    champion: RegisteredModel | None
    verdict: Verdict
    plan_sha256: str

    def to_json(self) -> dict[str, Any]:
        return {
            "version": f"{self.version.name} {self.version.version}",
            "alias": self.alias,
            "champion": self.champion and f"{self.champion.name} {self.champion.version}",
            "plan_sha256": self.plan_sha256,
            **self.verdict.to_json(),
        }


def check(model: str, alias: str) -> GateAnswer:
    """`model`: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.

    Raises ValueError if the version, its weights or its dossier are not what its record says.
    """
    version = registry.find(model)
    told, record_sha256 = registry.ledger_here(version.record["name"]), version.record_sha256
    other = gate_question.opponent(told, alias, record_sha256)
    champion = None if other is None else registry.find_by_record(version.name, other)
    version.weights()
    folder = _dossier(version)
    against = None if champion is None else opposed(champion, version.record["test_set_sha256"])
    asked = gate_question.ask(folder, against, told.plan_sha256)
    verdict = gate.judge([*asked.checks, *_remeasured(remeasuring.anew(folder))])
    answer = GateAnswer(version, alias, champion, verdict, plan.digest(plan.read()))
    audit.append(
        "gate", record_sha256=record_sha256, alias=alias, champion=other, verdict=verdict.verdict,
        plan_sha256=answer.plan_sha256,
    )  # fmt: skip
    return answer


def opposed(champion: RegisteredModel, test_set_sha256: str) -> Path | Measured:
    """The champion's dossier; or, where new scans made another test set since it was evaluated, and this one lies here,
    its weights on it, here and now: that is a look at it, too."""
    if champion.record["test_set_sha256"] == test_set_sha256 or manifest.test_set_sha256() != test_set_sha256:
        return _dossier(champion)
    log.info("gate: %s %d was measured on other scans; it segments those of today", champion.name, champion.version)
    evaluated = Conditions.from_json(champion.record["conditions"]).checked(other_code=True)
    here = replace(Conditions.of_here(evaluated.overlap), flips=evaluated.flips)
    with TemporaryDirectory(dir=project.state_folder()) as folder:
        found = segment_and_measure(champion.weights(), here, free_bytes(), Path(folder))
    weights_sha256, cases = champion.record["weights_sha256"], len(found.cases)
    audit.append("compare", weights_sha256=weights_sha256, test_set_sha256=test_set_sha256, cases=cases)
    return Measured(found.scores, champion.record["structures"], test_set_sha256, found.left_out)


def _dossier(version: RegisteredModel) -> Path:
    return dossier.find(record.digest(version.record), version.run_id)


def _remeasured(found: Remeasured) -> Iterator[Check]:
    bounds = plan.read().bounds
    yield from (Check("measured anew", gate.FAILS, reason=f"measured anew: {fault}") for fault in found.faults)
    if not found.faults:
        yield Check("measured anew", gate.PASSES)
    if found.seconds_per_case is not None and found.memory_bytes is not None:
        for name, value, bound in (
            ("seconds a scan", found.seconds_per_case, bounds.seconds_per_case_at_most),
            ("GiB of memory", found.memory_bytes / GIB, bounds.memory_gib_at_most),
        ):
            if bound is not None:
                yield gate.at_most(name, value, bound, "take a smaller network")
