"""Which operations a compiler makes one kernel of, and what that reads and writes: from a step's own data flow.

    joined(operations, compiled) -> the same step with fewer operations, which move fewer bytes

Inductor compiles each module that it is given (`compiled`) as one graph forward and one backward, in which what is
recomputed belongs to the backward pass. Within a graph

    elementwise operations, copies and reductions over a row join what they take from and what they give to;
    a reduction over more than `LONG` numbers (a group norm over a volume), or over leading axes (gradients of a norm's
    weights), ends a kernel: what is applied of its result is another kernel, that reads the input once more; so does
    any product, convolution, attention or message;
    a result that is cheap to make is made again from up to `INLINED` inputs rather than written and read, also in the
    backward pass, rather than kept for it;
    a kernel reads what others made, once, and writes what others read: another kernel, another graph, a later pass.

Views are free. Nothing outside of compiled modules is joined. Held to Inductor's own count by tests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from model.certificate.operations import Operation, Touch

INLINED = 4  # inputs; Inductor's realize_reads_threshold
SMALL = 64  # times smaller than the result: an input that is not counted among those
JOINED = "joined elementwise operations"


def joined(operations: Sequence[Operation], compiled: frozenset[str]) -> list[Operation]:
    """Of one stretch of a step. Operations stay in order; a joined kernel stands where its last operation stood."""
    alone, graphs = _divided(operations, compiled)
    placed = {number: operations[number] for number in alone}
    for numbers, graph in graphs:
        placed |= {numbers[last]: kernel for last, kernel in graph.kernels()}
    return [placed[number] for number in sorted(placed)]


def never_written(operations: Sequence[Operation], compiled: frozenset[str]) -> set[int]:
    """Allocations of one stretch that only joined kernels would hold, in registers."""
    return {allocation for _, graph in _divided(operations, compiled)[1] for allocation in graph.never_written()}


def _divided(
    operations: Sequence[Operation], compiled: frozenset[str]
) -> tuple[list[int], list[tuple[list[int], Graph]]]:
    """The numbers of the operations that are in no compiled graph, and of those in each."""
    members: defaultdict[str | None, list[int]] = defaultdict(list)
    readers: defaultdict[int, set[str | None]] = defaultdict(set)
    for number, operation in enumerate(operations):
        name = _graph(operation, compiled)
        members[name].append(number)
        for touch in operation.reads:
            readers[touch.allocation].add(name)
    alone, graphs = members.pop(None, []), []
    for name, numbers in members.items():
        outside = {allocation for allocation, where in readers.items() if where - {name}}
        graphs.append((numbers, Graph([operations[number] for number in numbers], outside)))
    return alone, graphs


def _graph(operation: Operation, compiled: frozenset[str]) -> str | None:
    """The compiled module; None: outside of all."""
    if operation.phase == "update" or operation.whole_bytes:
        return None
    name = operation.module
    while name and name not in compiled:
        name = name.rpartition(".")[0]
    return name or None


@dataclass(frozen=True)
class Version:
    """Bytes of an allocation as one operation left them; `maker` -1: as they were before the graph."""

    touch: Touch
    maker: int


@dataclass
class Graph:
    """The operations of one compiled module, forward and backward. `outside`: allocations that others read, too."""

    operations: list[Operation]
    outside: set[int]
    reads: list[list[Version]] = field(default_factory=list)  # of each operation
    level: list[int] = field(default_factory=list)  # how many kernels must have ended before
    last_maker: dict[int, int] = field(default_factory=dict)
    existed: set[int] = field(default_factory=set)  # before the graph
    sources: dict[Version, list[Version]] = field(default_factory=dict)  # of what can be made again
    taken: dict[int, list[Version]] = field(default_factory=dict)  # by each operation

    def __post_init__(self) -> None:
        ready: dict[int, int] = {}  # the level at which what an operation makes can be read
        floor = 0  # of the backward pass
        for number, operation in enumerate(self.operations):
            values = [Version(touch, self.last_maker.get(touch.allocation, -1)) for touch in operation.reads]
            self.existed |= {value.touch.allocation for value in values if value.maker < 0}
            level = max((ready[value.maker] for value in values if value.maker >= 0), default=0)
            level = level if operation.phase == "forward" else max(level, floor)
            joins = operation.joins
            self.reads.append(values)
            self.level.append(level + (joins is not None and (joins.twice or joins.outer)))
            ready[number] = self.level[-1] + (joins is None or joins.ends)
            floor = floor if operation.phase != "forward" else max(floor, self.level[-1] + 1)
            self.last_maker |= {touch.allocation: number for touch in operation.writes}

    def kernels(self) -> Iterator[tuple[int, Operation]]:
        """Each with the number of its last operation."""
        for number, operation in enumerate(self.operations):
            if operation.joins is None:
                yield number, operation
        for members in self.groups:
            if not self.written & set(members):
                continue  # others make its results again
            traffic = sum(touch.size for touch in {*self._read_by(members), *self._written_by(members)})
            # What is read twice is first read in a kernel of its own.
            statistics = sum(value.touch.size for each in members if self._twice(each) for value in self._taken(each))
            first = self.operations[members[0]]
            yield members[-1], replace(first, name=JOINED, moved_bytes=traffic + statistics, reads=(), writes=())

    def never_written(self) -> set[int]:
        """Allocations of which no more than registers is ever used."""
        joined_ones = {touch.allocation for number in self.group_of for touch in self.operations[number].writes}
        used = {touch.allocation for number in self.written for touch in self.operations[number].writes}
        for operation in self.operations:
            if operation.joins is None:
                used |= {touch.allocation for touch in (*operation.reads, *operation.writes)}
        return joined_ones - used - self.existed - self.outside

    @cached_property
    def groups(self) -> list[list[int]]:
        """Operations of a kernel: of one level, one taking from the other, or both from the same."""
        parent = list(range(len(self.operations)))

        def root(number: int) -> int:
            while parent[number] != number:
                number = parent[number]
            return number

        seen: dict[tuple[int, Touch, int], int] = {}
        for number, operation in enumerate(self.operations):
            if operation.joins is None:
                continue
            for value in self.reads[number]:
                maker = value.maker
                if maker >= 0 and self.operations[maker].joins and self.level[maker] == self.level[number]:
                    parent[root(number)] = root(maker)
                alike = (self.level[number], value.touch, operation.joins.span)
                parent[root(number)] = root(seen.setdefault(alike, number))
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for number, operation in enumerate(self.operations):
            if operation.joins is not None:
                groups[root(number)].append(number)
        return list(groups.values())

    @cached_property
    def group_of(self) -> dict[int, int]:
        return {number: index for index, members in enumerate(self.groups) for number in members}

    @cached_property
    def needed(self) -> set[int]:
        """Makers whose result must be written: others than joined kernels read it, or it was there before."""
        seen_by_others = self.outside | self.existed
        needed = {maker for allocation, maker in self.last_maker.items() if allocation in seen_by_others}
        for number, operation in enumerate(self.operations):
            if operation.joins is None:
                needed |= {value.maker for value in self.reads[number]}
        return needed

    @cached_property
    def written(self) -> set[int]:
        """All makers whose result is written: those needed, and those that another kernel does not make again."""
        kept = set(self.needed)
        for number, operation in enumerate(self.operations):
            if operation.joins is not None:
                kept |= {value.maker for value in self._taken(number)}
        return kept - {-1}

    def _read_by(self, members: Sequence[int]) -> Iterator[Touch]:
        for number in members:
            yield from (value.touch for value in self._taken(number))

    def _written_by(self, members: Sequence[int]) -> Iterator[Touch]:
        for number in members:
            if number in self.written:
                yield from (
                    Touch(-1 - touch.allocation, touch.offset, touch.size) for touch in self.operations[number].writes
                )

    def _twice(self, number: int) -> bool:
        joins = self.operations[number].joins
        return joins is not None and joins.twice

    def _taken(self, number: int) -> list[Version]:
        """What an operation reads from memory: of other kernels, or what those would have to read for it."""
        if number not in self.taken:
            taken: list[Version] = []
            for value in self.reads[number]:
                if self._within(value, number):
                    continue
                inlined, times = self._sources(value), 2 if self._twice(number) else 1
                cost = value.touch.size * (times + (value.maker not in self.needed))
                cheap = times * sum(each.touch.size for each in inlined) <= cost
                taken += [each for each in inlined if not self._within(each, number)] if cheap else [value]
            self.taken[number] = taken
        return self.taken[number]

    def _within(self, value: Version, number: int) -> bool:
        """Whether a value is made by the very kernel of an operation."""
        return value.maker >= 0 and self.group_of.get(value.maker) == self.group_of[number]

    def _sources(self, value: Version) -> list[Version]:
        """From what a value can be made again within another kernel: itself, if it is not cheap."""
        joins = self.operations[value.maker].joins if value.maker >= 0 else None
        if joins is None or joins.reduced > 1:
            return [value]
        if value not in self.sources:
            sources = {source for each in self.reads[value.maker] for source in self._sources(each)}
            large = [source for source in sources if source.touch.size * SMALL > value.touch.size]
            self.sources[value] = list(sources) if len(large) <= INLINED else [value]
        return self.sources[value]
