"""`medseg plan-run --run`: the rungs of a ladder of sizes, in order, each a `medseg run` of its own.

On GPUs a rung is certified first, and trained in the way that the certificate chose. A rung that was preempted goes on
with the same command, and one that is done is not trained again.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flows import processes, results
from pipelines.params import profiles
from pipelines.training import ladder
from pipelines.training.ladder import CurveEnd, Record, Rung
from pipelines.work import preemption, project


@dataclass(frozen=True)
class Placement:
    """`ranks` GPUs of a kind, each rung within `days`."""

    ranks: int
    gpu: str
    days: float


def climb(
    steps: Sequence[Rung],
    profile: str | None,
    place: Placement | None,
    go_on: bool,
    tell: Callable[[str], None],
) -> None:
    """Raises ValueError at a size that did not pay, PreemptedError if training was asked to stop."""

    def train(rung: Rung) -> tuple[CurveEnd, dict[str, Any]]:
        chosen = _certified(rung, profile, place, tell) if place else []
        _run(rung, profile, [*rung.changes, *chosen])
        result = results.collect()
        end = ladder.curve_end(project.root() / project.TRAINED / "history.csv")
        return end, {"version": result["version"], "mean_dice": result["mean_dice"]}

    record = Record(ladder.folder())
    ladder.climb(steps, train, lambda rung: ladder.key_of(rung, profile), record, go_on, tell)


def _run(rung: Rung, profile: str | None, changes: Sequence[str]) -> None:
    """A process each: Prefect keeps to the first server that a process has met."""
    options = ["--profile", profile] if profile else []
    for change in changes:
        options += ["--set", change]
    command = [sys.executable, "-m", "flows.commands.medseg", "run", *options]
    with processes.running(command, os.environ) as child:
        code = child.wait()
    if code == preemption.EXIT_CODE:
        raise preemption.PreemptedError(f"{rung.name} was asked to stop; the same command goes on from here")
    if code:
        raise ValueError(f"{rung.name} ended with {code}, for the reason above; the same command goes on from here")


def _certified(rung: Rung, profile: str | None, place: Placement, tell: Callable[[str], None]) -> list[str]:
    """The changes that the certificates of this rung's stages ask for. Raises ValueError if one does not fit."""
    from pipelines.training.certification import certify

    profiles.use(profile, rung.changes)
    stages = ["pretrain", "train"] if profiles.outlook(None).pretrain.steps else ["train"]
    changes = []
    for stage in stages:
        content = certify(rung.preset, place.ranks, place.gpu, within_days=place.days, stage=stage, tell=tell)
        if not content["fits"]:
            raise ValueError(f"{rung.name}, {stage}: {'; '.join(content['faults'])}")
        changes += [f"{key}={json.dumps(value)}" for key, value in content["to_set"].items()]
    return changes
