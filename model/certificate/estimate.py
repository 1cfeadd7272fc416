"""A deep network's step from the simulation of a shallow one: the certificate's one way of counting.

Blocks of a stage are alike, so one of each stands for all: what it keeps for the backward pass, computes and sends is
counted as often as there are blocks. Weights, gradients and optimizer state are scaled to the number of parameters.
The activations of one micro-step do not depend on the number of ranks, so a shallow simulation is shared by all plans
that differ in nothing else. Tests hold this to the simulation of a whole network.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf

from model.certificate.fusion import joined
from model.certificate.launch_plan import LaunchPlan
from model.certificate.memory import Memory, categorise, forward_ends, memory
from model.certificate.operations import Allocation, Operation, StepRecord
from model.certificate.simulate import MICRO_STEPS, simulate
from model.certificate.timing import FAST, PLANNED, Rates, Timing, timing
from model.engine.hardware import Gpu
from model.engine.parallelize import KEPT_SHARE

BLOCK = re.compile(r"encoder\.stages\.(\d)\.blocks\.")
MASTER_BYTES, MOMENT_BYTES = 4, 8  # of one parameter
GROUP = 4  # ranks that share the shallow network; what they share is in closed form


@dataclass(frozen=True)
class Estimate:
    """`fast`: with good kernels."""

    plan: LaunchPlan
    memory: Memory
    timing: Timing
    fast: Timing

    @property
    def working_bytes(self) -> int:
        """The peak without weights, gradients and optimizer."""
        return self.memory.peak_bytes - sum(state_bytes(self.plan).values())


def estimate(plan: LaunchPlan, gpu: Gpu, rates: Rates = PLANNED) -> Estimate:
    by_block = plan.parameters * plan.item_bytes > KEPT_SHARE * gpu.memory_bytes
    shallow = _shallow_plan(plan)
    record, kernels = _shallow(shallow, by_block)
    growth = plan.parameters / shallow.parameters
    held = StepRecord([*_deep_allocations(record, plan, 1.0 if by_block else growth)], record.operations, record.marks)
    deep = _deepened(kernels, plan, growth)
    return Estimate(plan, memory(held), timing(deep, plan, gpu, rates), timing(deep, plan, gpu, FAST))


def state_bytes(plan: LaunchPlan) -> dict[str, int]:
    """What a rank holds all the time, by category. Gradients are whole where they are not cut in every micro-step."""
    own = plan.parameters / plan.group
    buckets = MASTER_BYTES * plan.parameters if plan.strategy == "ddp" else 0
    return {
        "weights": round(MASTER_BYTES * own),
        "gradients": round(MASTER_BYTES * (plan.parameters if keeps_whole_gradients(plan) else own)),
        "optimizer": round((MOMENT_BYTES + MASTER_BYTES * plan.averaged) * own),
        "communication": round(buckets),
    }


def keeps_whole_gradients(plan: LaunchPlan) -> bool:
    """Between micro-steps: fsdp cuts gradients with a message over all ranks, once a step."""
    return plan.strategy == "fsdp" and plan.accumulation > 1


def _deep_allocations(record: StepRecord, plan: LaunchPlan, growth: float) -> Iterator[Allocation]:
    """`growth`: how much more than the shallow network the deep one gathers and reduces at a time."""
    ends, start = forward_ends(record), record.marks[0][1]
    second = dict(record.marks).get("micro-step 2", start)
    states, totals, whole = state_bytes(plan), Counter[str](), keeps_whole_gradients(plan)
    for allocation in record.allocations:
        totals[allocation.kind] += allocation.size
    for allocation in record.allocations:
        block = BLOCK.match(allocation.module)
        if allocation.kind == "gradients" and whole:
            continue
        if allocation.kind:
            factor = states[allocation.kind] / totals[allocation.kind]
        elif allocation.sharding:
            factor = growth
        elif start <= allocation.born < second < (allocation.died or second + 1):
            continue  # of the shallow network's own accumulation; gradients are among the states
        else:
            kept = block and categorise(allocation, ends) == "activations"
            factor = plan.network.depths[int(block[1])] if block and kept else 1
        yield replace(allocation, size=round(factor * allocation.size))
    if whole:  # all there when the second micro-step begins
        yield Allocation(states["gradients"], second, "backward", "network", "gradients", False, kind="gradients")
    yield Allocation(states["communication"], 0, "forward", "network", "buckets", True)


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
def _shallow(plan: LaunchPlan, by_block: bool) -> tuple[StepRecord, StepRecord]:
    """What is recorded, and its kernels after compiling. `by_block`: whether the deep network is too large to stay
    gathered, and is sharded a block at a time."""
    record, kernels = simulate(plan, memory_bytes=1.0 if by_block else inf), StepRecord()
    for (name, _), operations in zip(record.marks, record.stretches(), strict=True):
        kernels.marks.append((name, len(kernels.operations)))
        kernels.operations += joined(operations, record.compiled)
    return record, kernels


def _deepened(kernels: StepRecord, plan: LaunchPlan, growth: float) -> StepRecord:
    deep = StepRecord()
    for (name, _), operations in zip(kernels.marks, kernels.stretches(), strict=True):
        deep.marks.append((name, len(deep.operations)))
        deep.operations += [_scaled(operation, plan, growth) for operation in operations if not operation.whole_bytes]
        deep.operations += _messages(plan, name)
    return deep


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
