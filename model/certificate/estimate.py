"""A deep network from the simulation of a shallow one: seconds instead of a minute, for search and scaling study.

Blocks of a stage are alike, so one of each stands for all: what it keeps for the backward pass and what it computes is
counted as often as there are blocks. What depends on the number of parameters alone is in closed form: weights,
gradients, optimizer state, messages. The activations of one micro-step do not depend on the number of ranks, so a
shallow simulation is shared by all plans that differ in nothing else. Tests hold this to the full simulation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf

from model.certificate.launch_plan import LaunchPlan
from model.certificate.memory import categorise, forward_ends
from model.certificate.operations import Operation, StepRecord
from model.certificate.simulate import MICRO_STEPS, simulate
from model.certificate.timing import PLANNED, Rates, Timing, timing
from model.engine.hardware import Gpu
from model.engine.parallelize import KEPT_SHARE

BLOCK = re.compile(r"encoder\.stages\.(\d)\.blocks\.")
MASTER_BYTES, MOMENT_BYTES = 4, 8  # of one parameter
GROUP = 4  # ranks that share the shallow network; what they share is in closed form


@dataclass(frozen=True)
class Estimate:
    plan: LaunchPlan
    state_bytes: int  # weights, gradients, optimizer
    working_bytes: int  # the rest, at its worst
    timing: Timing

    @property
    def peak_bytes(self) -> int:
        return self.state_bytes + self.working_bytes


def estimate(plan: LaunchPlan, gpu: Gpu, rates: Rates = PLANNED) -> Estimate:
    by_block = plan.parameters * plan.item_bytes > KEPT_SHARE * gpu.memory_bytes
    record = _shallow(_shallow_plan(plan), by_block)
    deep = _deepened(record, plan)
    growth = 1.0 if by_block else plan.parameters / _shallow_plan(plan).parameters
    working = working_bytes(record, plan, growth)
    return Estimate(plan, sum(state_bytes(plan).values()), working, timing(deep, plan, gpu, rates))


def state_bytes(plan: LaunchPlan) -> dict[str, int]:
    """What a rank holds all the time, by category. Gradients are whole where they are not cut in every micro-step."""
    own = plan.parameters / plan.group
    kept_back = plan.strategy == "fsdp" and plan.accumulation > 1
    buckets = MASTER_BYTES * plan.parameters if plan.strategy == "ddp" else 0
    return {
        "weights": round(MASTER_BYTES * own),
        "gradients": round(MASTER_BYTES * (plan.parameters if kept_back else own)),
        "optimizer": round((MOMENT_BYTES + MASTER_BYTES * plan.averaged) * own),
        "communication": round(buckets),
    }


def working_bytes(record: StepRecord, plan: LaunchPlan, growth: float) -> int:
    """The worst moment of all that is not state, the activations that blocks keep counted once a block.

    `growth`: how much more than the shallow network the deep one gathers and reduces at a time.
    """
    ends, start = forward_ends(record), record.marks[0][1]
    second = next((number for name, number in record.marks if name == "micro-step 2"), None)
    changes = [0] * (len(record.operations) + 2)
    for allocation in record.allocations:
        stays = second is not None and start <= allocation.born < second and (allocation.died or second + 1) > second
        if allocation.kind or (stays and not allocation.sharding):
            continue  # state, which is in closed form
        block = BLOCK.match(allocation.module)
        kept = block and categorise(allocation, ends) == "activations"
        size = allocation.taken * (plan.network.depths[int(block[1])] if block and kept else 1)
        size = round(size * growth) if allocation.sharding else size
        changes[allocation.born] += size
        if allocation.died is not None:
            changes[allocation.died] -= size
    level = worst = 0
    for number, change in enumerate(changes):
        level += change
        worst = max(worst, level if number >= start else 0)
    return worst


def _shallow_plan(plan: LaunchPlan) -> LaunchPlan:
    """One block a stage, sharded on a few ranks; what happens once a step is in the second of two micro-steps."""
    ranks, group, strategy = (1, 1, "ddp") if plan.strategy == "ddp" else (2 * GROUP, GROUP, "hsdp")
    return replace(
        plan,
        network=replace(plan.network, depths=(1, 1, 1, 1)),
        ranks=ranks,
        group=group,
        strategy=strategy,
        global_batch=MICRO_STEPS * ranks * plan.micro_batch,
        mix=(),
    )


@lru_cache(maxsize=256)
def _shallow(plan: LaunchPlan, by_block: bool) -> StepRecord:
    """`by_block`: whether the deep network is too large to stay gathered, and is sharded a block at a time."""
    return simulate(plan, memory_bytes=1.0 if by_block else inf)


def _deepened(record: StepRecord, plan: LaunchPlan) -> StepRecord:
    shallow = replace(plan, network=replace(plan.network, depths=(1, 1, 1, 1)))
    growth = plan.parameters / shallow.parameters
    operations: list[Operation] = []
    marks: list[tuple[str, int]] = []
    for (name, _), stretch in zip(record.marks, record.stretches(), strict=True):
        marks.append((name, len(operations)))
        operations += [_scaled(operation, plan, growth) for operation in stretch if not operation.whole_bytes]
        operations += _messages(plan, name)
    return StepRecord([], operations, marks, record.compiled)


def _scaled(operation: Operation, plan: LaunchPlan, growth: float) -> Operation:
    if operation.phase == "update" or operation.name.startswith(("fsdp.", "aten.split_with_sizes_copy")):
        return replace(operation, moved_bytes=round(growth * operation.moved_bytes))
    block = BLOCK.match(operation.module)
    return replace(operation, times=plan.network.depths[int(block[1])]) if block else operation


def _messages(plan: LaunchPlan, stretch: str) -> list[Operation]:
    """Of one micro-step: weights gathered twice and gradients cut; at the last one, copies averaged."""
    if stretch == "update" or plan.ranks == 1:
        return []
    units = sum(plan.network.depths) + len(plan.network.decoder_widths)
    last = stretch == "micro-step 2" or plan.accumulation == 1
    share = plan.parameters // units

    def message(name: str, item_bytes: int, parts: int, times: int = units) -> Operation:
        whole = share * item_bytes
        return Operation(name, "backward", "network", whole_bytes=whole, part_bytes=whole // parts, times=times)

    messages = []
    if plan.strategy != "ddp":
        messages.append(message("all-gather", plan.item_bytes, plan.group, 2 * units))
    if plan.strategy == "hsdp" or (plan.strategy == "fsdp" and last):
        messages.append(message("reduce-scatter", MASTER_BYTES, plan.group))
    if plan.strategy == "ddp" and last:
        messages.append(message("all-reduce", MASTER_BYTES, 1))
    if plan.strategy == "hsdp" and last:
        own = plan.parameters * MASTER_BYTES // plan.group // units
        messages.append(Operation("all-reduce", "backward", "network", whole_bytes=own, part_bytes=own, times=units))
    return messages
