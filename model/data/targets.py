"""What the values of a sample's target mean to the network.

A source annotates some structures. One of them may be the union of several classes (a kidney whose side nobody told);
the classes that none of them covers are unknown there, and stand together with background as one event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

UNDECIDED = -1  # value of voxels that count in no loss and no score
# Structure ids in case files; the last marks what nobody decided on. Label maps of int16 are what every viewer reads.
HIGHEST_ID, IGNORED = 2**15 - 2, 2**15 - 1


@dataclass(frozen=True)
class Targets:
    """Value `v` of a target says: one of the classes `groups[v]` is there. Class 0 is background, in group 0.

    `names`: of the structures of the values from 1 on. `regions`: values whose union is trained as a whole, too.
    `undecided`: whether a target may hold UNDECIDED.
    """

    groups: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    regions: tuple[tuple[int, ...], ...] = ()
    undecided: bool = False

    @property
    def classes(self) -> list[int]:
        """A class of each value."""
        return [group[0] for group in self.groups]

    def values(self, classes: int) -> list[int]:
        """The value of each class."""
        found = [0] * classes
        for value, group in enumerate(self.groups):
            for index in group:
                found[index] = value
        return found


@dataclass(frozen=True)
class Meaning:
    """Targets, and the target value of every structure id, (HIGHEST_ID + 2,) int16."""

    targets: Targets
    values: np.ndarray


def meaning(
    annotated: Sequence[str],
    ids: Mapping[str, int],
    covers: Mapping[str, tuple[int, ...]],
    regions: Mapping[str, tuple[int, ...]],
    classes: int,
) -> Meaning:
    """Of samples that annotate these structures.

    `ids`: structure -> its id in labels. `covers`: structure or region -> the classes it is made of, from 1 on, where
    that is not one class. `classes`: their number with background.

    A structure within another takes its classes away from that: a voxel of the tumour that is not of its core. Where
    nothing is left of a structure its own voxels are undecided. Raises ValueError if two structures overlap and neither
    lies within the other.
    """
    whole = {name: frozenset(covers[name]) for name in annotated if name in ids}
    names: list[str] = []
    groups: list[frozenset[int]] = []
    table = np.zeros(HIGHEST_ID + 2, np.int16)
    table[IGNORED] = UNDECIDED
    for name, covered in whole.items():
        inner = (other for other in whole.values() if len(covered) > 1 and other < covered)
        own = covered.difference(*inner)
        if taken := [other for other, group in zip(names, groups, strict=True) if own & group]:
            raise ValueError(f"{name} and {taken[0]} overlap, and neither lies within the other; leave one out")
        if own:
            names.append(name)
            groups.append(own)
        table[ids[name]] = len(groups) if own else UNDECIDED
    value_of = {index: value for value, group in enumerate(groups, start=1) for index in group}
    background = tuple(index for index in range(classes) if index not in value_of)
    unions = [found for covered in regions.values() if len(found := _told_by(covered, groups, value_of)) > 1]
    told = (background, *(tuple(sorted(group)) for group in groups))
    return Meaning(Targets(told, tuple(names), tuple(unions)), table)


def _told_by(covered: Sequence[int], groups: Sequence[frozenset[int]], value_of: Mapping[int, int]) -> tuple[int, ...]:
    """The values that together are a region; none if it cannot be told from the rest."""
    inside = sorted({value_of[index] for index in covered if index in value_of})
    reached = {index for value in inside for index in groups[value - 1]}
    return tuple(inside) if reached == set(covered) else ()
