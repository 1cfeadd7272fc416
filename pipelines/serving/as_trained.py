"""What a scan's modalities are to a model: those it was trained on, kinds of them, or nothing.

    met = meet(plan, {"": outline}, "t1w")
    met.scan, met.source, met.notes         by the model's own names; the training source most like it; what to tell

A model of MR takes T1, and says so. A model of T1 takes no MR, which may be any sequence.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from pipelines.cases.preparation import Preprocessing, SourceRecord
from pipelines.scans import modalities
from pipelines.scans.modalities import HU, NO_UNIT, in_hu
from pipelines.scans.volume import VolumeError
from pipelines.scans.volume_geometry import Outline, Volume

Seen = TypeVar("Seen", Volume, Outline)


@dataclass(frozen=True)
class Met(Generic[Seen]):
    """`scan`: by modality, as the model calls it. `source`: whose grid, patch and structures apply."""

    scan: dict[str, Seen]
    source: str
    notes: list[str]


def meet(plan: Preprocessing, scan: Mapping[str, Seen], modality: str | None) -> Met[Seen]:
    """`scan`: by modality; "" stands for the model's only one, or for `modality`, by name or synonym; of several images
    numbers stand for those that `modality` lists.

    Raises VolumeError if a name is unknown, none of them was trained, or one is missing that every training scan had.
    """
    named: dict[str, Seen] = {}
    numbers = sorted(int(called or 0) for called in scan if not called or called.isdigit())
    shown = dict(zip(numbers, _shown(len(numbers), plan, modality), strict=True))
    for called, each in scan.items():
        name = _named(plan, shown[int(called or 0)] if not called or called.isdigit() else called)
        if name in named:
            raise VolumeError(f"two files of one scan are {name}; keep one")
        named[name] = each
    taken = _taken(plan, named)
    notes = [f"{name} is taken as {own}, which the model was trained on" for name, own in taken.items() if name != own]
    notes += [f"{name} was not trained, and is left out" for name in named if name not in taken]
    met = {own: named[name] for name, own in taken.items()}
    source = nearest_source(plan.sources, met)
    return Met(met, source, notes + _missing(plan.sources[source], met))


def nearest_source(sources: Mapping[str, SourceRecord], scan: Mapping[str, Volume | Outline]) -> str:
    """The training source most like a scan: sharing most modalities, then nearest in spacing.

    It decides grid, patch and the structures looked for; what that source never annotated is not predicted. A source
    all of whose scans had what this one lacks is the last choice.
    """
    spacing_mm = np.array(next(iter(scan.values())).spacing_mm)

    def distance(name: str) -> tuple[bool, int, float, str]:
        record = sources[name]
        differing = len(set(scan) ^ set(record.modalities))
        apart = float(np.abs(np.log(spacing_mm / np.array(record.native_spacing_mm))).sum())
        return not set(record.always) <= set(scan), differing, apart, name

    usable = [name for name, record in sources.items() if set(scan) & set(record.modalities)]
    if not usable:
        raise _untrained(scan, {name for record in sources.values() for name in record.modalities})
    return min(usable, key=distance)


def _named(plan: Preprocessing, called: str) -> str:
    """The modality that a name or synonym means, the model's own names first."""
    try:
        name = called if called in plan.modalities else modalities.here().named(called)
    except ValueError as error:
        raise VolumeError(f"{error}. The model knows {', '.join(plan.modalities)}") from None
    unit = HU if in_hu(name) else NO_UNIT
    if (trained := plan.units.get(name, unit)) != unit:
        raise VolumeError(
            f"the model was trained on {name} of unit {trained}, here it has {unit}; say so in {modalities.FILE}: "
            f"`{name}: {{unit: {trained}}}`"
        )
    return name


def _shown(count: int, plan: Preprocessing, modality: str | None) -> list[str]:
    """What so many images show, in their order, whose names do not say."""
    given = [name.strip() for name in modality.split(",")] if modality else []
    if count > 1 and len(given) != count:
        raise VolumeError(
            f"its names do not say what its {count} channels show; say it in their order, as in --modality T1,FLAIR, "
            "or put the dataset.json that names them beside"
        )
    return given[:count] if given or not count else [_only_modality(plan)]


def _only_modality(plan: Preprocessing) -> str:
    if len(plan.modalities) > 1:
        raise VolumeError(f"the model knows {', '.join(plan.modalities)}; say which this scan is with --modality")
    return plan.modalities[0]


def _taken(plan: Preprocessing, names: Iterable[str]) -> dict[str, str]:
    """Name -> what the model calls it; without those that it does not know. Raises VolumeError if it knows none."""
    known = modalities.here()
    taken: dict[str, str] = {}
    for name in names:
        kinds = (kind for kind in known.kinds(name) if in_hu(kind) == in_hu(name))
        own = next((each for each in (name, *kinds) if each in plan.modalities), None)
        if own is None:
            continue
        if other := next((each for each in taken if taken[each] == own), None):
            raise VolumeError(f"{other} and {name} are both {own} to the model, which takes one; give it a file alone")
        taken[name] = own
    if not taken:
        raise _untrained(names, plan.modalities)
    return taken


def _untrained(names: Iterable[str], trained: Iterable[str]) -> VolumeError:
    known, names, trained = modalities.here(), list(names), sorted(trained)
    text = f"modality {', '.join(names)} was not trained; the model knows {', '.join(trained)}"
    for name in names:
        if of_it := [each for each in trained if name in known.kinds(each)]:
            text += f". {name} may be {' or '.join(of_it)}: if it is, say so with --modality"
    return VolumeError(text)


def _missing(source: SourceRecord, scan: Iterable[str]) -> list[str]:
    """What is to be told. Raises VolumeError if the model never saw a scan without it."""
    missing = sorted(set(source.modalities) - set(scan))
    if not missing:
        return []
    told = f"the model was trained on {_and(source.modalities)}; {_and(missing)} {'is' if len(missing) == 1 else 'are'}"
    if always := sorted(set(source.always) & set(missing)):
        raise VolumeError(f"{told} missing, and no training scan was without {_and(always)}")
    return [f"{told} missing"]


def _and(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
