"""What the values of other people's label maps mean: named by a dataset.json, by hand, or by their number alone.

    of_dataset(json)               nnU-Net's and MSD's `labels`, regions and `ignore` too
    of_pairs(["1=kidney", ...])    as typed
    of_values([1, 2])              label_1, label_2

A name that the vocabulary knows brings its tolerance, colour and codes; any other name is a structure all the same,
with a tolerance of 2 mm.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.scans import vocabulary
from pipelines.scans.structure import HIGHEST_ID, IGNORED, Declaration, Structure, of_declaration
from pipelines.scans.vocabulary import Vocabulary

_NO_STRUCTURE = {"background", "ignore"}


@dataclass(frozen=True)
class GivenLabels:
    """`words`: structures whose ids are the files' own values, and regions of them. `annotated`: the single ones."""

    words: Vocabulary
    annotated: tuple[str, ...]
    ignored: tuple[int, ...] = ()

    def of_file(self, array: np.ndarray) -> np.ndarray:
        """Values as int32, ignored ones IGNORED. Raises ValueError with the values that mean nothing here."""
        whole = np.rint(array).astype(np.int32)
        if np.abs(whole - array).max(initial=0) > 1e-3:
            raise ValueError("it holds fractions, so it is no label map; probabilities are not evaluated")
        known = {0, *self.ignored, *(self.words[name].id for name in self.annotated)}
        if outside := [value for value in np.unique(whole).tolist() if value not in known]:
            told = ", ".join(map(str, outside[:5]))
            raise ValueError(
                f"label value {told} is none of {', '.join(map(str, sorted(known)))}; name it with --labels"
            )
        return np.where(np.isin(whole, self.ignored), IGNORED, whole) if self.ignored else whole


def of_dataset(content: Mapping[str, Any]) -> GivenLabels:
    """Of a dataset.json: nnU-Net has name -> value or values, MSD value -> name. Raises ValueError if it has none."""
    labels = content.get("labels")
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError("dataset.json has no `labels`; say what values mean with --labels 1=NAME,2=NAME")
    if all(str(key).isdigit() for key in labels):
        labels = {str(name): int(value) for value, name in labels.items()}
    values = {str(name): _values(str(name), given) for name, given in labels.items()}
    ignored = tuple(value for name in values if name.lower() == "ignore" for value in values[name])
    named = {name: found for name, found in values.items() if name.lower() not in _NO_STRUCTURE and found != [0]}
    return _given(named, ignored)


def of_pairs(pairs: Iterable[str]) -> GivenLabels:
    """Raises ValueError for what is no VALUE=NAME."""
    named: dict[str, list[int]] = {}
    for pair in pairs:
        value, equals, name = pair.strip().partition("=")
        if not (equals and value.strip().isdigit() and name.strip()):
            raise ValueError(f"--labels {pair!r} is no VALUE=NAME, as in 1=kidney")
        named.setdefault(name.strip(), []).append(int(value))
    return _given({name: values for name, values in named.items() if name.lower() not in _NO_STRUCTURE}, ())


def of_values(values: Iterable[int]) -> GivenLabels:
    return _given({f"label {value}": [value] for value in sorted(set(values) - {0})}, ())


def _given(named: Mapping[str, Sequence[int]], ignored: tuple[int, ...]) -> GivenLabels:
    """Single values first; a region consists of them, and of `label N` where a value has no name of its own."""
    if bad := [value for values in named.values() for value in values if not 0 < value <= HIGHEST_ID]:
        raise ValueError(f"label value {bad[0]} is outside 1 to {HIGHEST_ID}")
    singles = {values[0]: name for name, values in named.items() if len(values) == 1}
    for value in sorted({value for values in named.values() for value in values} - set(singles)):
        singles[value] = f"label {value}"
    known = vocabulary.default()
    found = {value: _structure(name, value, known) for value, name in singles.items()}
    free = max(found, default=0) + 1
    regions = []
    for number, (name, values) in enumerate((n, v) for n, v in named.items() if len(v) > 1):
        parts = tuple(found[value].name for value in values)
        regions.append(replace(_structure(name, free + number, known), parts=parts))
    return GivenLabels(
        Vocabulary([*found.values(), *regions], "--labels"), tuple(each.name for each in found.values()), ignored
    )


def _structure(name: str, identifier: int, known: Vocabulary) -> Structure:
    if meant := known.named(name):
        return replace(known[meant], name=_plain(name), id=identifier, parts=())
    return of_declaration(_plain(name), Declaration(id=identifier))


def _plain(name: str) -> str:
    """As names of structures are spelled."""
    words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return (words if words[:1].isalpha() else f"label_{words}")[:62].rstrip("_")


def _values(name: str, given: Any) -> list[int]:
    values = given if isinstance(given, list | tuple) else [given]
    if not all(isinstance(value, int) for value in values):
        raise ValueError(f"dataset.json: label {name!r} is {given!r}, neither a value nor a list of values")
    return [int(value) for value in values]
