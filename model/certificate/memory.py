"""From a record to memory: bytes by category over time, the peak and where in the network it is.

weights        what this rank holds of them, float32
gradients      what it accumulates, float32
optimizer      AdamW's two moments, and the running average if there is one
activations    made in a forward pass and kept for the backward pass; the batch itself
communication  gathered weights, gradients on their way to other ranks and back
temporaries    the rest: results of the operation in progress, blocks being recomputed, a block's whole gradients
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from model.certificate.operations import Allocation, StepRecord

CATEGORIES = ("weights", "gradients", "optimizer", "activations", "communication", "temporaries")


@dataclass(frozen=True)
class Memory:
    """`peak`: bytes by category at the worst moment; `where`: phase and module of that moment.

    `timeline`: (operation number, bytes by category in the order of CATEGORIES), the worst of each stretch.
    """

    peak: dict[str, int]
    peak_bytes: int
    where: str
    largest: dict[str, int]
    timeline: list[tuple[int, tuple[int, ...]]]
    marks: list[tuple[str, int]]


def memory(record: StepRecord, points: int = 400) -> Memory:
    end = len(record.operations) + 1
    changes: dict[str, list[int]] = {category: [0] * (end + 1) for category in CATEGORIES}
    ends = forward_ends(record)
    for allocation in record.allocations:
        change = changes[categorise(allocation, ends)]
        change[allocation.born] += allocation.taken
        if allocation.died is not None:
            change[allocation.died] -= allocation.taken
    levels = [list(accumulate(changes[category])) for category in CATEGORIES]
    totals = [sum(level) for level in zip(*levels, strict=True)]
    start = record.marks[0][1] if record.marks else 0  # building the network is not a part of the step
    worst = max(range(start, len(totals)), key=totals.__getitem__)
    peak = {category: level[worst] for category, level in zip(CATEGORIES, levels, strict=True)}
    return Memory(
        peak=peak,
        peak_bytes=totals[worst],
        where=_where(record, worst),
        largest={category: max(level[start:]) for category, level in zip(CATEGORIES, levels, strict=True)},
        timeline=_timeline(levels, totals, start, points),
        marks=record.marks,
    )


def categorise(allocation: Allocation, ends: Sequence[int]) -> str:
    if allocation.kind:
        return allocation.kind
    if allocation.sharding:
        return "communication"
    if allocation.phase == "forward":
        end = next((end for end in ends if end >= allocation.born), None)
        if end is not None and (allocation.died is None or allocation.died > end):
            return "activations"
    return "temporaries"


def forward_ends(record: StepRecord) -> list[int]:
    """The operation numbers at which backward passes begin."""
    phases = [operation.phase for operation in record.operations]
    return [
        number
        for number in range(1, len(phases))
        if phases[number - 1] == "forward" and phases[number] in ("backward", "recompute")
    ]


def _where(record: StepRecord, number: int) -> str:
    operation = record.operations[min(number, len(record.operations) - 1)]
    return f"{operation.phase} pass, {operation.module}"


def _timeline(
    levels: Sequence[Sequence[int]], totals: Sequence[int], start: int, points: int
) -> list[tuple[int, tuple[int, ...]]]:
    """The worst moment of each of at most `points` stretches."""
    stretch = max(1, -(-(len(totals) - start) // points))
    worst = (
        max(range(first, min(first + stretch, len(totals))), key=totals.__getitem__)
        for first in range(start, len(totals), stretch)
    )
    return [(number - start, tuple(level[number] for level in levels)) for number in worst]
