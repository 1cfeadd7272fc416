"""What would make a run fit that does not: the least change of each kind, tried before it is told.

Tried by estimate, with the estimate's own error in hand; tests simulate what is told whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from model.certificate.estimate import state_bytes
from model.certificate.launch_plan import LaunchPlan
from model.certificate.ways import GIB, SPARE, Announce, Goal, PlanOutcome, estimated, possible
from model.engine.hardware import GPUS, Gpu

ESTIMATE_ERROR = 0.03  # of memory; tests hold estimates to it
NETWORK_GBITS = (1, 10, 25, 50, 100, 200, 400)  # a GPU: what is sold
PATCH_STEP = 32
MOST_RANKS = 4096


def remedies(outcome: PlanOutcome, goal: Goal, announce: Announce) -> Iterator[dict[str, object]]:
    """`change`: in a sentence; and the options that `medseg certify` takes for it."""
    gpu, plan = outcome.gpu, outcome.plan
    too_much_memory = "to spare" in outcome.faults[0] or "impossible" in outcome.faults[0]
    if too_much_memory:
        yield from _another_strategy(plan, gpu, goal, announce)
        yield from _smaller_patch(outcome, goal, announce)
    elif "messages" in outcome.faults[0]:
        yield from _faster_network(plan, gpu, goal, announce)
    yield from _fewer_steps(outcome, goal)
    yield from _more_ranks(plan, gpu, goal, announce)
    yield from _another_gpu(plan, gpu, goal, announce)


def fits(plan: LaunchPlan, gpu: Gpu, goal: Goal) -> bool:
    """Some way fits, even if the estimate is as wrong as it may be."""
    careful = replace(gpu, memory_bytes=gpu.memory_bytes * (1 - ESTIMATE_ERROR))
    ways = sorted(possible(plan, goal.strategy), key=lambda way: (way.micro_batch, way.checkpointing, -way.group))
    return any(not estimated(way, careful, goal).faults for way in ways)  # those that need least memory come first


def _another_strategy(plan: LaunchPlan, gpu: Gpu, goal: Goal, announce: Announce) -> Iterator[dict[str, object]]:
    announce("trying another strategy")
    if goal.strategy and fits(plan, gpu, replace(goal, strategy=None)):
        yield {"change": "let the strategy be chosen (auto)", "options": ["--strategy", "auto"]}


def _smaller_patch(outcome: PlanOutcome, goal: Goal, announce: Announce) -> Iterator[dict[str, object]]:
    """What is not state grows with the number of voxels: where to begin follows from the outcome."""
    plan, gpu = outcome.plan, outcome.gpu
    states = sum(state_bytes(plan).values())
    room = max(0.05, ((1 - SPARE) * gpu.memory_bytes - states) / max(1.0, outcome.needed_bytes - states))
    edge = min(max(plan.patch) - 1, int(max(plan.patch) * (1.2 * room) ** (1 / 3))) // PATCH_STEP * PATCH_STEP
    while edge >= PATCH_STEP:
        announce(f"trying patches of {edge}^3")
        if fits(replace(plan, patch=(edge, edge, edge)), gpu, goal):
            yield {"change": f"patches of {edge}^3 voxels", "options": ["--patch", str(edge)]}
            return
        edge -= PATCH_STEP


def _faster_network(plan: LaunchPlan, gpu: Gpu, goal: Goal, announce: Announce) -> Iterator[dict[str, object]]:
    for gbits in NETWORK_GBITS:
        faster = replace(gpu, network_bytes_per_s=gbits * 1e9 / 8)
        if faster.network_bytes_per_s <= gpu.network_bytes_per_s:
            continue
        announce(f"trying {gbits} Gb/s between nodes")
        if fits(plan, faster, goal):
            yield {"change": f"a network of {gbits} Gb/s a GPU between nodes", "options": ["--network", str(gbits)]}
            return


def _fewer_steps(outcome: PlanOutcome, goal: Goal) -> Iterator[dict[str, object]]:
    if "steps would take" in outcome.faults[0]:
        steps = int(goal.within_days * 86400 / outcome.timing.step_s)
        yield {"change": f"at most {steps:,} steps", "options": ["--steps", str(steps)]}


def _more_ranks(plan: LaunchPlan, gpu: Gpu, goal: Goal, announce: Announce) -> Iterator[dict[str, object]]:
    ranks = 2 * plan.ranks
    while ranks <= min(MOST_RANKS, plan.global_batch):
        announce(f"trying {ranks} GPUs")
        if plan.global_batch % ranks == 0 and fits(replace(plan, ranks=ranks), gpu, goal):
            yield {"change": f"{ranks} GPUs", "options": ["--gpus", str(ranks)]}
            return
        ranks *= 2


def _another_gpu(plan: LaunchPlan, gpu: Gpu, goal: Goal, announce: Announce) -> Iterator[dict[str, object]]:
    for key, other in GPUS.items():
        if other.memory_bytes <= gpu.memory_bytes and other.flops <= gpu.flops:
            continue
        announce(f"trying {other.name}")
        if fits(plan, other, goal):
            yield {
                "change": f"{plan.ranks} {other.name} ({other.memory_bytes / GIB:.1f} GiB)",
                "options": ["--gpu", key],
            }
            return
