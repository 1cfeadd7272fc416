"""What the rungs of a ladder cost, by the certificate's estimate, against the days that there are.

One block of each stage is simulated a preset, with the micro-batch and checkpointing that the parameters say. A
certificate proper is made before a rung starts (flows/climbing.py), and may find a faster way.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from model.certificate.ways import Goal, described, quickest
from model.engine.hardware import Gpu
from pipelines.params import profiles
from pipelines.params.recipe import Optimisation
from pipelines.params.schema import Params
from pipelines.training.certification import gpu_named, plan_of, rates_for
from pipelines.training.ladder import Cost, Rung

Announce = Callable[[str], None]


def priced(
    ladder: Sequence[Rung], profile: str | None, ranks: int, gpu: str, days: float, announce: Announce
) -> list[Cost]:
    """A cost for each rung, in order: another seed of a size trains anew and uses the same pretrained encoder."""
    kind, costs = gpu_named(gpu), []
    for rung in ladder:
        settings = profiles.outlook(profile, rung.changes)
        trained = _cost(settings, settings.train, rung, ranks, kind, days, announce)
        if settings.pretrain.steps and not rung.repeats:
            before = _cost(settings, settings.pretrain, rung, ranks, kind, days, announce)
            trained = replace(
                trained, fits=trained.fits and before.fits, pretrain_days=before.train_days,
                way=trained.way if before.fits else f"pretraining: {before.way}",
                gpu_hours=trained.gpu_hours + before.gpu_hours,
            )  # fmt: skip
        costs.append(trained)
    return costs


def summed(costs: Sequence[Cost], days: float) -> dict[str, Any]:
    """Of all rungs one after the other, against `days`."""
    total = sum(cost.days for cost in costs)
    return {
        "days": total,
        "gpu_hours": sum(cost.gpu_hours for cost in costs),
        "within_days": days,
        "spare_days": days - total,
        "fits": total <= days and all(cost.fits for cost in costs),
    }


def _cost(
    settings: Params, recipe: Optimisation, rung: Rung, ranks: int, kind: Gpu, days: float, announce: Announce
) -> Cost:
    announce(f"estimating {rung.name}, {recipe.block}")
    goal = Goal(recipe.steps, days, None, rates_for(kind, recipe.precision)[1])
    best = quickest(plan_of(settings, recipe, rung.preset, ranks), kind, goal)
    taken = goal.days(best.timing.step_s)
    way = best.faults[0] if best.faults else described(best.plan)
    return Cost(not best.faults, way, 0.0, taken, taken * 24 * ranks)
