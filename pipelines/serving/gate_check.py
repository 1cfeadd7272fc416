"""May this version have this alias? All that the gate asks, of artifacts bound by hash: `medseg gate check`.

check("models:/NAME/3", "champion") -> GateAnswer
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.release import audit, dossier, gate, gate_question, ledger, plan, record, registry
from pipelines.release.gate import Check, Verdict
from pipelines.release.registry import RegisteredModel
from pipelines.serving import remeasuring
from pipelines.serving.remeasuring import Remeasured
from pipelines.work.memory import GIB


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


def check(model: str, alias: str, published: Mapping[int, str] | None = None) -> GateAnswer:
    """`model`: `models:/NAME/VERSION` or `models:/NAME@ALIAS`. `published`: as `ledger.read` takes it.

    Raises ValueError if the version, its weights or its dossier are not what its record says.
    """
    version = registry.find(model)
    told, record_sha256 = ledger.read(version.name, published), record.digest(version.record)
    other = gate_question.opponent(told, alias, record_sha256)
    champion = None if other is None else registry.find_by_record(version.name, other)
    version.weights()
    folder = _dossier(version)
    asked = gate_question.ask(folder, None if champion is None else _dossier(champion), told.plan_sha256)
    verdict = gate.judge([*asked.checks, *_remeasured(remeasuring.anew(folder))])
    answer = GateAnswer(version, alias, champion, verdict, plan.digest(plan.read()))
    audit.append(
        "gate", record_sha256=record_sha256, alias=alias, champion=other, verdict=verdict.verdict,
        plan_sha256=answer.plan_sha256,
    )  # fmt: skip
    return answer


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
