"""DICOM, as stage `deidentify` leaves it: one JSON record a series, its volumes beside; all names are pseudonyms.

Series of one study on one grid that show different things (T1, T1 after contrast, FLAIR, T2) make one scan of several
channels; any other series is a scan of its own.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.scans.contracts import OWN_IDS
from pipelines.scans.label_names import Meanings
from pipelines.scans.manifest import SET_ASIDE
from pipelines.sources import Scan

GRID_TOLERANCE_MM = 1e-2


@dataclass(frozen=True)
class _Found:
    """One usable volume: its record and the paths of its files."""

    name: str
    patient: str
    study: str
    volume: dict[str, Any]
    image: str
    label: str | None


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    usable: list[_Found] = []
    for path in sorted(path for path in files if path.endswith(".json")):
        series = json.loads((root / path).read_text())
        folder, stem = PurePosixPath(path).parent, PurePosixPath(path).stem
        if reason := _reason(series, stem):
            yield _refused(stem, series["patient"] or stem, reason)
        for k, volume in enumerate(series["volumes"], start=1):
            name = f"{stem}-{k}"
            if reason := _reason(volume, name):
                yield _refused(name, series["patient"], reason)
                continue
            label = (folder / volume["label"]).as_posix() if volume["label"] else None
            image = (folder / volume["image"]).as_posix()
            usable.append(_Found(name, series["patient"], series["study"], volume, image, label))
    for group in _grouped(sorted(usable, key=lambda each: each.label is None)):
        yield _scan(group)


def _reason(record: dict[str, Any], name: str) -> str:
    """Why a series or volume cannot be used, or is not meant to be; empty if neither."""
    if record["quarantined"]:
        return f"series {name}: {record['quarantined']}"
    return f"{SET_ASIDE}series {name}: {record['set_aside']}" if record["set_aside"] else ""


def _refused(name: str, patient: str, problem: str) -> Scan:
    return Scan("dicom", patient, name, {}, {}, problem)


def _grouped(found: list[_Found]) -> Iterator[list[_Found]]:
    """Volumes of one study on one grid, each of another role, with at most one label among them. One whose sequence is
    not known may show what another shows, so it is a scan of its own."""
    groups: list[list[_Found]] = []
    for each in found:
        for group in groups:
            roles = [other.volume["role"] for other in (*group, each)]
            distinct = len(set(roles)) == len(roles) and "MR" not in roles
            labels = sum(other.label is not None for other in (*group, each))
            if group[0].study == each.study and distinct and labels <= 1 and _same_grid(group[0].volume, each.volume):
                group.append(each)
                break
        else:
            groups.append([each])
    yield from groups


def _same_grid(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if one["shape"] != other["shape"]:
        return False
    rows = zip(one["affine"], other["affine"], strict=True)
    apart_mm = max(abs(a - b) for row, other_row in rows for a, b in zip(row, other_row, strict=True))
    return apart_mm * max(one["shape"]) <= GRID_TOLERANCE_MM  # at the far corner, about


def _scan(group: list[_Found]) -> Scan:
    labelled = next((each for each in group if each.label), group[0])
    images = {each.volume["role"]: each.image for each in group}
    key = "+".join(sorted(each.name for each in group))
    labels = {labelled.label: OWN_IDS} if labelled.label else {}
    return Scan(
        "dicom", group[0].patient, key, images, labels,
        annotated=tuple(labelled.volume["annotated"]),
        notes=tuple(f"dicom: {each.volume['role']}: {note}" for each in group for note in each.volume["notes"]),
    )  # fmt: skip
