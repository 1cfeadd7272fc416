"""Which classes a network tells apart, from the structures that its cases annotate.

Where one source annotates a union (`kidney`) and another one its parts, the parts are the classes, and the union's
voxels say that one of them is there. A union whose parts nobody annotates is a class like any other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.scans.vocabulary import Vocabulary


@dataclass(frozen=True)
class Classes:
    """`names`: without background, by id. `structures`: id of every structure annotated, and of every class. `covers`:
    numbers (from 1 on) of the classes that each structure or region is made of."""

    names: tuple[str, ...]
    structures: dict[str, int]
    covers: dict[str, tuple[int, ...]]


def classes_of(annotated: Iterable[str], words: Vocabulary, regions: Sequence[str] = ()) -> Classes:
    """Raises ValueError if a region to train is not made of what is annotated."""
    annotated = set(annotated)
    names = set(annotated)
    while wider := [name for name in names if any(words.atoms(other) < words.atoms(name) for other in names)]:
        for name in wider:
            names = (names - {name}) | set(words[name].parts)
    ordered = tuple(sorted(names, key=lambda name: words[name].id))
    covers = {
        name: tuple(number for number, each in enumerate(ordered, start=1) if words.atoms(each) <= words.atoms(name))
        for name in (*annotated, *regions)
    }
    for region in regions:
        inside = frozenset().union(*(words.atoms(ordered[number - 1]) for number in covers[region]))
        if inside != words.atoms(region):
            missing = ", ".join(sorted(words.atoms(region) - inside))
            raise ValueError(f"train.regions: {region} holds {missing}, which no training case annotates; leave it out")
    return Classes(ordered, {name: words[name].id for name in sorted(names | annotated)}, covers)
