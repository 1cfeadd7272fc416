"""`medseg plan-run --run`: the rungs of a ladder of sizes, in order, each as `medseg run` runs it.

On GPUs a rung is certified first, and trained in the way that the certificate chose. A rung that was preempted goes on
with the same command, and one that is done is not trained again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flows import run
from pipelines.params import profiles
from pipelines.training import ladder
from pipelines.training.ladder import CurveEnd, Record, Rung
from pipelines.work import project


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
        result = run.run(profile, [*rung.changes, *chosen], None, wait=False)
        end = ladder.curve_end(project.root() / project.TRAINED / "history.csv")
        return end, {"version": result["version"], "mean_dice": result["mean_dice"]}

    record = Record(ladder.folder())
    ladder.climb(steps, train, lambda rung: ladder.key_of(rung, profile), record, go_on, tell)


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
