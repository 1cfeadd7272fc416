"""Every way to run a plan - strategy, ranks to a copy, micro-batch, checkpointing - and those that fit, best first.

A way fits if its peak, with a reserve for what PyTorch's accounts do not show, leaves `SPARE` of the memory; if kernels
do not wait for messages for more than `WAITING` of a step; and if the planned steps end in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf

from model.certificate.estimate import MASTER_BYTES, MOMENT_BYTES, estimate, state_bytes
from model.certificate.launch_plan import CHECKPOINTING, STRATEGIES, LaunchPlan
from model.certificate.memory import Memory
from model.certificate.timing import PLANNED, Rates, Timing
from model.engine.hardware import GPUS_IN_A_NODE, Gpu

SPARE = 0.15
WAITING = 0.3
GIB = 2**30
FRAGMENTED = 0.05  # of the peak: holes between blocks, with expandable segments
OUTSIDE_BYTES = 2 * GIB  # CUDA context and libraries, NCCL's buffers, workspaces of cuBLAS and cuDNN
MICRO_BATCHES = (1, 2, 4, 8)

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Goal:
    """What a run must keep to, and the `rates` that it is counted with. `strategy`: the one allowed; None: any."""

    steps: int
    within_days: float
    strategy: str | None = None
    rates: Rates = PLANNED

    def days(self, step_s: float) -> float:
        return self.steps * step_s / 86400


@dataclass(frozen=True)
class PlanOutcome:
    """A plan with all that is known of it. `memory` is None where it does not fit by far."""

    plan: LaunchPlan
    gpu: Gpu
    peak_bytes: float
    timing: Timing
    faults: tuple[str, ...]  # empty: it fits
    memory: Memory | None = None
    fast: Timing | None = None

    @property
    def needed_bytes(self) -> float:
        return (1 + FRAGMENTED) * self.peak_bytes + OUTSIDE_BYTES

    @property
    def spare_fraction(self) -> float:
        return 1 - self.needed_bytes / self.gpu.memory_bytes


def search(wanted: LaunchPlan, gpu: Gpu, goal: Goal, announce: Announce = lambda _: None) -> list[PlanOutcome]:
    """All ways: those that fit, fastest first, then the others."""
    outcomes: list[PlanOutcome] = []
    for plan in possible(wanted, goal.strategy):
        announce(f"estimating {described(plan)}")
        outcomes.append(estimated(plan, gpu, goal))
    outcomes.sort(key=_rank)
    return outcomes


def quickest(wanted: LaunchPlan, gpu: Gpu, goal: Goal) -> PlanOutcome:
    """The best strategy for the wanted micro-batch and checkpointing, by estimate alone. Raises ValueError if none
    shares the global batch evenly."""
    own = (wanted.micro_batch, wanted.checkpointing)
    ways = (plan for plan in possible(wanted, goal.strategy) if (plan.micro_batch, plan.checkpointing) == own)
    outcomes = [estimated(plan, gpu, goal) for plan in ways]
    if not outcomes:
        raise ValueError(unshared(wanted, goal))
    return min(outcomes, key=_rank)


def unshared(wanted: LaunchPlan, goal: Goal) -> str:
    return (
        f"a global batch of {wanted.global_batch} cannot be shared by {wanted.ranks} ranks"
        f"{' with ' + goal.strategy if goal.strategy else ''}; choose another number of GPUs or strategy"
    )


def possible(wanted: LaunchPlan, strategy: str | None = None) -> Iterator[LaunchPlan]:
    """Every combination that shares the global batch evenly."""
    for name in (strategy,) if strategy else STRATEGIES:
        for group in groups(name, wanted.ranks):
            for micro_batch in MICRO_BATCHES:
                if wanted.global_batch % (micro_batch * wanted.ranks):
                    continue
                for level in CHECKPOINTING:
                    yield replace(wanted, strategy=name, group=group, micro_batch=micro_batch, checkpointing=level)


def groups(strategy: str, ranks: int) -> list[int]:
    """How many ranks may share a copy: in hsdp those of one or several whole nodes."""
    if strategy == "ddp":
        return [1]
    if strategy == "fsdp":
        return [ranks] if ranks > 1 else []
    sizes = [GPUS_IN_A_NODE * 2**power for power in range(10)]
    return [size for size in sizes if size < ranks and ranks % size == 0]


def estimated(plan: LaunchPlan, gpu: Gpu, goal: Goal) -> PlanOutcome:
    states = sum(state_bytes(plan).values())
    if (1 + FRAGMENTED) * states + OUTSIDE_BYTES > gpu.memory_bytes:  # no need to look at the rest
        return PlanOutcome(plan, gpu, states, NO_TIMING, (too_large(plan, gpu),))
    single = estimate(replace(plan, micro_batch=1), gpu, goal.rates)
    least = states + 0.9 * plan.micro_batch * single.working_bytes
    if plan.micro_batch > 1 and least > gpu.memory_bytes:
        return judged(PlanOutcome(plan, gpu, least, NO_TIMING, ()), goal)
    closer = single if plan.micro_batch == 1 else estimate(plan, gpu, goal.rates)
    peak_bytes = closer.memory.peak_bytes
    return judged(PlanOutcome(plan, gpu, peak_bytes, closer.timing, (), closer.memory, closer.fast), goal)


def judged(outcome: PlanOutcome, goal: Goal) -> PlanOutcome:
    """With what speaks against it."""
    faults = []
    if outcome.spare_fraction < SPARE:
        faults.append(
            f"needs {outcome.needed_bytes / GIB:.1f} GiB a GPU with the reserve, {outcome.spare_fraction:.0%} of "
            f"{outcome.gpu.memory_bytes / GIB:.1f} GiB to spare; at least {SPARE:.0%} must be"
        )
    elif outcome.timing.communication_share > WAITING:
        faults.append(
            f"GPUs would wait for messages {outcome.timing.communication_share:.0%} of the time, more than "
            f"{WAITING:.0%}"
        )
    elif goal.days(outcome.timing.step_s) > goal.within_days:
        faults.append(
            f"{goal.steps:,} steps would take {goal.days(outcome.timing.step_s):.1f} days, more than "
            f"{goal.within_days:g}"
        )
    return replace(outcome, faults=tuple(faults))


def too_large(plan: LaunchPlan, gpu: Gpu) -> str:
    """The arithmetic of what a rank would have to hold before it sees the first voxel."""
    states = state_bytes(plan)
    billions = plan.parameters / 1e9
    copies = f"/ {plan.group} ranks " if plan.group > 1 else ""
    item = MASTER_BYTES * 2 + MOMENT_BYTES + MASTER_BYTES * plan.averaged
    buckets = f" and {states['communication'] / GIB:.1f} GiB of message buckets" if states["communication"] else ""
    whole = " with whole gradients between micro-steps" if plan.strategy == "fsdp" and plan.accumulation > 1 else ""
    return (
        f"impossible: {billions:.2f} billion parameters {copies}x {item} bytes (weight, gradient, AdamW's two moments"
        f"{', average' if plan.averaged else ''}; float32){whole}{buckets} are {sum(states.values()) / GIB:.1f} GiB "
        f"a GPU, and a {gpu.name} has {gpu.memory_bytes / GIB:.1f}"
    )


def described(plan: LaunchPlan) -> str:
    copy = f" in groups of {plan.group}" if plan.strategy == "hsdp" else ""
    return f"{plan.strategy}{copy}, micro-batch {plan.micro_batch}, checkpointing {plan.checkpointing}"


def _rank(outcome: PlanOutcome) -> tuple[int, float, float]:
    """What fits, by speed; what is only too slow, by speed; what is too large, by size."""
    if outcome.spare_fraction < SPARE:
        return 2, outcome.peak_bytes, outcome.timing.step_s
    return int(bool(outcome.faults)), outcome.timing.step_s, outcome.peak_bytes


NO_TIMING = Timing(inf, 0.0, 0.0, [], {}, {}, 0.0)  # of what does not fit by far
