"""`medseg data import DIR`: what a folder holds, and the parameters that would read it.

    propose(folder, known)     profile, and changes of parameters as `--set` takes them
    found(folder, settings)    by source: scans, modalities, structures, and what is still to be said

From names and index files; of what these do not tell, a few scans are opened: a modality is guessed from an image's
values, and a label's values are listed. What a value means is never guessed, unless the folder is called after the one
structure in it. The answer names files and labels as they are: it is for the terminal.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import params
from pipelines.intake import claims
from pipelines.intake.listing import walk
from pipelines.scans import vocabulary, volume
from pipelines.scans.contracts import contract_of
from pipelines.scans.label_names import Meanings
from pipelines.scans.volume import VolumeError
from pipelines.sources import Scan, readers, scans_in

LOOKED_AT = 5  # labels of a source whose values are listed
CT_BELOW_HU = -500.0  # air; no MR has it
PROFILES = {frozenset({"msd-hippocampus"}): "hippocampus"}


@dataclass(frozen=True)
class Proposal:
    """`changes`: as `--set` takes them. `meanings`: by source, what labels could mean whose names say nothing.
    `modality`: likewise, what images seem to show."""

    profile: str
    changes: list[str]
    meanings: dict[str, dict[str, str]]
    modality: dict[str, list[str]]


@dataclass
class SourceFound:
    """A source of the folder. `open`: what is still to be said in params.yaml before its scans can be used."""

    source: str
    scans: int = 0
    labelled: int = 0
    modalities: list[str] = field(default_factory=list)
    structures: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def propose(folder: Path, known: params.Params | None = None) -> Proposal:
    """`known`: the parameters so far, whose data.labels and data.modality are kept for the sources that are there.

    Raises ValueError if no layout claims anything.
    """
    labels, shown = ({}, {}) if known is None else (known.data.labels, known.data.modality)
    scans = _by_source(folder, labels)
    if not scans:
        raise ValueError(
            f"{folder} holds no scan in a known layout; `medseg data check {folder}` says more (DICOM is read by "
            "`medseg run --set 'data.sources=[dicom]' --data DIR`)"
        )
    layouts = list(dict.fromkeys(scan.source for own in scans.values() for scan in own))
    meanings = {source: _meanings(folder, source, own) for source, own in scans.items()}
    modality = {source: _modality(folder, own) for source, own in scans.items() if _of(shown, source) is None}
    meanings = {source: meant for source, meant in meanings.items() if meant}
    modality = {source: seen for source, seen in modality.items() if seen}
    kept = {name: dict(meant) for name, meant in labels.items() if _concerns(name, scans)}
    kept_shown = {name: list(seen) for name, seen in shown.items() if _concerns(name, scans)}
    changes = [f"data.sources={json.dumps(layouts)}"]
    if tables := {**kept, **{source: {**(_of(kept, source) or {}), **meant} for source, meant in meanings.items()}}:
        changes.append(f"data.labels={json.dumps(tables)}")
    if shown_tables := {**kept_shown, **modality}:
        changes.append(f"data.modality={json.dumps(shown_tables)}")
    return Proposal(PROFILES.get(frozenset(scans), "own"), changes, meanings, modality)


def found(folder: Path, settings: params.Params) -> list[SourceFound]:
    """What these parameters would make of the folder, by source."""
    result = []
    for source, scans in _by_source(folder, settings.data.labels).items():
        told = SourceFound(source, len(scans), sum(bool(scan.labels or scan.unknown) for scan in scans))
        shown = _of(settings.data.modality, source) or ()
        roles = sorted({role for scan in scans for role in scan.images})
        named = [shown[int(role)] if role.isdigit() and int(role) < len(shown) else role for role in roles]
        told.modalities = sorted({role for role in named if not role.isdigit()})
        told.structures = _structures(scans)
        told.open = [*_open_labels(folder, source, scans), *_open_channels(source, named)]
        result.append(told)
    return result


def _by_source(folder: Path, meanings: Meanings) -> dict[str, list[Scan]]:
    paths = sorted(path.relative_to(folder).as_posix() for path, problem in walk(folder) if not problem)
    found: dict[str, list[Scan]] = {}
    for scan in scans_in([path for path in paths if path.isprintable()], folder, meanings, readers()):
        if scan.paths:
            found.setdefault(f"{scan.source}-{scan.dataset}".rstrip("-"), []).append(scan)
    return found


def _of(table: Mapping[str, Any], source: str) -> Any:
    """What a table says of a source, else of its layout."""
    return table.get(source) or table.get(source.partition("-")[0])


def _concerns(name: str, sources: Mapping[str, Any]) -> bool:
    return any(name in (source, source.partition("-")[0]) for source in sources)


def _meanings(folder: Path, source: str, scans: Sequence[Scan]) -> dict[str, str]:
    """Of unknown names the nearest structure, or background; of a single value the structure the set is named for."""
    if proposals := {name: meant for scan in scans for name, meant in scan.unknown.items()}:
        return proposals
    structure = vocabulary.here().named(source.partition("-")[2])
    values = _values(folder, scans) if structure else []
    return {str(values[0]): structure} if structure and len(values) == 1 else {}


def _values(folder: Path, scans: Sequence[Scan]) -> list[int]:
    """That occur in the first labels of which nothing says what they mean."""
    paths = [path for scan in scans for path, contract in scan.labels.items() if not contract and not scan.unknown]
    found: set[float] = set()
    for path in paths[:LOOKED_AT]:
        try:
            found |= set(np.unique(volume.read(folder / path).array).tolist())
        except VolumeError:  # `data check` and ingest tell of it
            continue
    return sorted(int(value) for value in found if value > 0)


def _modality(folder: Path, scans: Sequence[Scan]) -> list[str]:
    """What the channels show whose names do not say: CT, where there is air below zero."""
    for scan in scans:
        numbered = sorted((role for role in scan.images if role.isdigit()), key=int)
        if len(numbered) == 1:  # sequences of several look alike
            try:
                lowest = float(volume.read(folder / scan.images[numbered[0]]).array.min())
            except VolumeError:
                continue
            return ["CT" if lowest <= CT_BELOW_HU else "MR"]
    return []


def _structures(scans: Sequence[Scan]) -> list[str]:
    contracts = dict.fromkeys(contract for scan in scans for contract in scan.labels.values() if contract)
    return list(dict.fromkeys(name for contract in contracts for name in contract_of(contract).annotated))


def _open_labels(folder: Path, source: str, scans: Sequence[Scan]) -> list[str]:
    unknown = dict.fromkeys(name for scan in scans for name in scan.unknown)
    values = [] if unknown else _values(folder, scans)
    if names := [*map(json.dumps, unknown), *map(str, values)]:
        stated = ", ".join(f"{name}: STRUCTURE" for name in names)
        return [f"what its labels mean: --set 'data.labels.{source}={{{stated}}}'"]
    return []


def _open_channels(source: str, named: Sequence[str]) -> list[str]:
    if count := sum(role.isdigit() for role in named):
        return [f"what its {count} channels show: --set 'data.modality.{source}=[{', '.join(['MODALITY'] * count)}]'"]
    return []


def dicom_files(folder: Path) -> int:
    """By their names alone; none of them is opened here."""
    return sum(path.name.lower().endswith(claims.DICOM_SUFFIXES) for path, _ in walk(folder))


def unclaimed(folder: Path) -> list[str]:
    """NIfTI files that no layout claims, by their path below `folder`."""
    return claims.unread_below(folder, tuple(readers())).unclaimed
