"""From outcomes to the certificate's content: figures, sentences and, where nothing fits, remedies.

The content is plain data, the same in the JSON file, on the page and for `medseg certify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from model.certificate.launch_plan import STRATEGIES, LaunchPlan
from model.certificate.mixture import mixture
from model.certificate.remedy import remedies
from model.certificate.timing import PLANNED
from model.certificate.ways import (
    FRAGMENTED,
    GIB,
    OUTSIDE_BYTES,
    Announce,
    Goal,
    PlanOutcome,
    described,
    search,
    unshared,
)
from model.engine.hardware import Gpu

PUBLISHED_MFU = {
    "MPT, 6.66 billion parameters, FSDP, 32 A100": 0.516,
    "IBM and Meta, 7 billion, FSDP, A100": 0.57,
    "the same with compile and selective recomputation": 0.68,
}
SCAN_VOXELS = 512 * 512 * 400  # a large CT; most scans are smaller
LABEL_BYTES, VOXEL_BYTES = 1, 2  # in a case file
CHECKPOINTS_KEPT = 3  # newest two and best, model/engine/checkpoint.py


@dataclass(frozen=True)
class Cohort:
    scans: int
    training_share: float = 1.0  # the rest is held out
    channels: float = 1.0  # of a scan, in the mean


def certificate(
    wanted: LaunchPlan, gpu: Gpu, goal: Goal, cohort: Cohort, announce: Announce = lambda _: None
) -> dict[str, Any]:
    """Search, and all that is to be said of the result."""
    outcomes = search(wanted, gpu, goal, announce)
    if not outcomes:
        raise ValueError(unshared(wanted, goal))
    best = outcomes[0]
    content = figures(best, goal, cohort)
    content["mix"] = mixture(best, goal)
    content["reasons"] = reasons(outcomes, goal)
    content["remedies"] = list(remedies(best, goal, announce)) if best.faults else []
    content["ways"] = [_way(outcome, goal) for outcome in outcomes]
    return content


def figures(outcome: PlanOutcome, goal: Goal, cohort: Cohort) -> dict[str, Any]:
    plan, gpu, timing = outcome.plan, outcome.gpu, outcome.timing
    seconds = goal.steps * timing.step_s
    hours = seconds / 3600 * plan.ranks
    return {
        "fits": not outcome.faults,
        "faults": list(outcome.faults),
        "stage": plan.stage,
        "strategy": plan.strategy,
        "group": plan.group,
        "ranks": plan.ranks,
        "micro_batch": plan.micro_batch,
        "accumulation": plan.accumulation,
        "global_batch": plan.global_batch,
        "activation_checkpointing": plan.checkpointing,
        "precision": plan.precision,
        "patch": list(plan.patch),
        "channels": plan.channels,
        "classes": plan.classes,
        "parameters": plan.parameters,
        "gpu": {"key": gpu.key, **asdict(gpu)},
        "simulated": outcome.memory is not None,
        "peak_memory_gib": outcome.peak_bytes / GIB,
        "spare_fraction": outcome.spare_fraction,
        "memory": _memory(outcome),
        "step_time_s": timing.step_s,
        "days": seconds / 86400,
        "time": _time(outcome, goal),
        "run": {
            "steps": goal.steps,
            "epochs": goal.steps * plan.global_batch / (cohort.scans * cohort.training_share),
            "within_days": goal.within_days,
            "steps_possible": int(goal.within_days * 86400 / timing.step_s),
            "gpu_hours": hours,
            "energy_kwh": hours * gpu.watts / 1000,
        },
        "storage": _storage(plan, timing.step_s, cohort),
    }  # fmt: skip


def _memory(outcome: PlanOutcome) -> dict[str, Any]:
    seen = outcome.memory
    content: dict[str, Any] = {
        "capacity_gib": outcome.gpu.memory_bytes / GIB,
        "reserve_gib": (outcome.needed_bytes - outcome.peak_bytes) / GIB,
        "reserve": f"{FRAGMENTED:.0%} of the peak for fragmentation, {OUTSIDE_BYTES / GIB:g} GiB for the CUDA context, "
        "NCCL's buffers and the workspaces of cuBLAS and cuDNN",
    }
    if seen:
        content["at_peak_gib"] = {name: count / GIB for name, count in seen.peak.items()}
        content["largest_gib"] = {name: count / GIB for name, count in seen.largest.items()}
        content["peak_in"] = seen.where
        content["timeline"] = [
            [number, [round(count / GIB, 3) for count in levels]] for number, levels in seen.timeline
        ]
        content["marks"] = seen.marks
    return content


def _time(outcome: PlanOutcome, goal: Goal) -> dict[str, Any]:
    timing, fast = outcome.timing, outcome.fast or outcome.timing
    return {
        "model_flops_utilisation": timing.mfu,
        "model_flops_utilisation_range": [timing.mfu, fast.mfu],
        "compiled": outcome.plan.compile,
        "without_terms": {"step_time_s": timing.without_s, "model_flops_utilisation": timing.mfu_without},
        "occupancy_s": timing.occupancy_s,
        "launches_s": timing.launches_s,
        "published_model_flops_utilisation": PUBLISHED_MFU,
        "step_time_range_s": [fast.step_s, timing.step_s],
        "rates": asdict(goal.rates),
        "assumed_rates": asdict(PLANNED),
        "communication_share": timing.communication_share,
        "update_s": timing.update_s,
        "kernel_seconds": timing.kernel_seconds,
        "messages": [asdict(message) for message in timing.traffic],
        "flops_by_part": timing.flops_by_part,
        "flops_a_step_and_gpu": sum(timing.flops_by_part.values()),
    }


def _storage(plan: LaunchPlan, step_s: float, cohort: Cohort) -> dict[str, float]:
    """Cases as large as a large CT; checkpoints of weights, moments and average, three of them."""
    patch_bytes = plan.voxels * (plan.channels * VOXEL_BYTES + LABEL_BYTES)
    case_bytes = SCAN_VOXELS * (cohort.channels * VOXEL_BYTES + LABEL_BYTES)
    checkpoint_bytes = plan.parameters * (12 + 4 * plan.averaged)
    return {
        "scans": cohort.scans,
        "cases_tb": cohort.scans * case_bytes / 1e12,
        "checkpoint_gb": checkpoint_bytes / 1e9,
        "total_tb": (cohort.scans * case_bytes + CHECKPOINTS_KEPT * checkpoint_bytes) / 1e12,
        "read_gb_per_s": plan.global_batch * patch_bytes / step_s / 1e9,
        "read_gb_per_s_a_node": plan.global_batch * patch_bytes / step_s / 1e9 / max(1, plan.ranks / 8),
    }


def reasons(outcomes: Sequence[PlanOutcome], goal: Goal) -> list[str]:
    """Why the first was chosen, in sentences."""
    best = outcomes[0]
    fitting = [outcome for outcome in outcomes if not outcome.faults]
    if not fitting:
        return [
            f"None of {len(outcomes)} ways fits. The nearest, {described(best.plan)}: {best.faults[0]}.",
            *_losers(outcomes),
        ]
    sentences = [
        f"{described(best.plan).capitalize()} is the fastest of {len(fitting)} ways that fit, out of {len(outcomes)}: "
        f"{best.timing.step_s:.2f} s a step, {best.spare_fraction:.0%} of memory to spare.",
    ]
    if len(fitting) > 1:
        second = fitting[1]
        sentences.append(
            f"The next, {described(second.plan)}, takes {second.timing.step_s:.2f} s and leaves "
            f"{second.spare_fraction:.0%}."
        )
    return [*sentences, *_losers(outcomes), _utilisation(best)]


def _losers(outcomes: Sequence[PlanOutcome]) -> list[str]:
    """Of each strategy that never fits, the way that comes nearest."""
    sentences = []
    for strategy in STRATEGIES:
        ways = [outcome for outcome in outcomes if outcome.plan.strategy == strategy]
        if ways and all(outcome.faults for outcome in ways):
            nearest = min(ways, key=lambda outcome: outcome.peak_bytes)
            sentences.append(f"{strategy} ({described(nearest.plan)}): {nearest.faults[0]}.")
    return sentences


def _utilisation(best: PlanOutcome) -> str:
    low, high = best.timing.mfu, (best.fast or best.timing).mfu
    published = min(PUBLISHED_MFU.values())
    bound = max(best.timing.kernel_seconds, key=best.timing.kernel_seconds.__getitem__)
    share = best.timing.kernel_seconds[bound] / sum(best.timing.kernel_seconds.values())
    counted = "kernels of compiled modules joined" if best.plan.compile else "kernel by kernel, as nothing is compiled"
    return (
        f"Planned with {low:.1%} model FLOP utilisation ({high:.1%} with better kernels). Published FSDP runs of 6.7 "
        f"billion parameters reach {published:.1%} and more on A100, but on language, which is nearly all matrix "
        f"products; here {share:.0%} of the time goes to {bound}, {counted}."
    )


def _way(outcome: PlanOutcome, goal: Goal) -> dict[str, Any]:
    plan = outcome.plan
    return {
        "way": described(plan),
        "strategy": plan.strategy,
        "group": plan.group,
        "micro_batch": plan.micro_batch,
        "activation_checkpointing": plan.checkpointing,
        "fits": not outcome.faults,
        "simulated": outcome.memory is not None,
        "peak_memory_gib": outcome.peak_bytes / GIB,
        "spare_fraction": outcome.spare_fraction,
        "step_time_s": outcome.timing.step_s if outcome.timing.mfu else None,
        "days": goal.days(outcome.timing.step_s) if outcome.timing.mfu else None,
        "faults": list(outcome.faults),
    }
