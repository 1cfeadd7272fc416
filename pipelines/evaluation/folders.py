"""Two folders of label maps, matched by file name and measured: anybody's predictions against anybody's references.

    found = measure_all(predictions, references, labels, rows, memory_bytes)

Whatever cannot be measured - no prediction, another grid, a value that means nothing - is in `left_out` with its
reason. A case is called `case-0001` on, in order of file names, which may name people; `names` tells whose is which.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.evaluation import given_labels
from pipelines.evaluation.given_labels import GivenLabels
from pipelines.evaluation.measuring import measure
from pipelines.evaluation.score import Score, Subject
from pipelines.scans.volume import VolumeError, outline, read, same_grid
from pipelines.work import faults, within_memory
from pipelines.work.memory import with_overhead
from pipelines.work.within_memory import Load, LocalExecutor, Lost

ENDINGS = (".nii.gz", ".nii")
DATASET = "dataset.json"
MEASURE_S = 4e-8  # a voxel, on one core, measured; only the time left is told by it
VOXEL_BYTES = 40  # two float32 maps as read, two int32, masks and distances of the largest structure
COLUMNS = ("case", "patient", "source", "site", "scanner", "modality")


@dataclass(frozen=True)
class LabelPair:
    """`prediction`: None where there is none."""

    subject: Subject
    reference: Path
    prediction: Path | None
    image: Path | None = None


@dataclass(frozen=True)
class Evaluated:
    """`names`: case -> file name, which stays with whoever owns the files."""

    scores: list[Score]
    left_out: dict[str, str]
    names: dict[str, str]
    labels: GivenLabels
    pairs: dict[str, LabelPair] = field(default_factory=dict)


def measure_all(
    predictions: Path,
    references: Path,
    labels: Sequence[str],
    table: Path | None,
    images: Path | None,
    memory_bytes: int,
) -> Evaluated:
    """`labels`: VALUE=NAME each; else a dataset.json in, or above, either folder; else the values found.

    `table`: a CSV with the columns `case` (file name without ending) and any of patient, source, site, scanner,
    modality. `images`: scans by the same names, for the report's pictures. Raises ValueError if nothing can be read.
    """
    pairs, names = _pairs(predictions, references, table, images)
    meant = _labels(labels, predictions, references)
    left_out = {pair.subject.case_id: "it has no prediction" for pair in pairs if pair.prediction is None}
    loads = []
    for pair in pairs:
        if pair.prediction is not None:
            try:
                voxels = prod(outline(pair.reference).shape)
                loads.append(Load(pair, with_overhead(VOXEL_BYTES * voxels), MEASURE_S * voxels))
            except (VolumeError, OSError) as error:
                left_out[pair.subject.case_id] = f"reference: {error}"
    if meant is None:
        meant = _by_values(loads, left_out)
    scores = []
    work = partial(measure_pair, labels=meant)
    for pair, outcome in within_memory.each(work, loads, LocalExecutor(memory_bytes), "evaluate"):
        if isinstance(outcome, list):
            scores += outcome
        else:
            left_out[pair.subject.case_id] = outcome.reason if isinstance(outcome, Lost) else outcome
    order = sorted(scores, key=lambda score: score.case_id)
    return Evaluated(order, dict(sorted(left_out.items())), names, meant, {p.subject.case_id: p for p in pairs})


def measure_pair(pair: LabelPair, labels: GivenLabels) -> list[Score] | str:
    """The scores of one pair, or the reason why there are none."""
    try:
        reference, predicted, spacing_mm = read_pair(pair, labels)
        subject = replace(pair.subject, slice_mm=max(spacing_mm))
        return measure(subject, reference, predicted, spacing_mm, labels.annotated, labels.words)
    except Exception as error:
        if (reason := faults.told(error)) is None:
            raise
        return reason.replace(pair.reference.name, "(file)")


def read_pair(pair: LabelPair, labels: GivenLabels) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Reference and prediction (D, H, W) and their spacing. Raises ValueError if they do not lie on one grid."""
    assert pair.prediction is not None
    found = []
    for role, path in (("reference", pair.reference), ("prediction", pair.prediction)):
        try:
            volume = read(path)
            found.append((volume, labels.of_file(volume.array)))
        except (ValueError, OSError) as error:
            raise ValueError(f"{role}: {error}") from None
    (one, reference), (other, predicted) = found
    if difference := same_grid(one, other):
        raise ValueError(f"the prediction's {difference} of the reference; predict on the scan's own grid")
    return reference, predicted, one.spacing_mm


def _pairs(
    predictions: Path, references: Path, table: Path | None, images: Path | None
) -> tuple[list[LabelPair], dict[str, str]]:
    expected, given = _files(references), _files(predictions)
    shown = _files(images) if images else {}
    if not expected:
        raise ValueError(f"{references} holds no NIfTI file (.nii or .nii.gz)")
    if not set(expected) & set(given):
        raise ValueError(f"no file of {predictions} is called as one of {references}; predictions bear their names")
    told = _told(table)
    if unknown := sorted(set(told) - set(expected)):
        raise ValueError(f"{table}: case {unknown[0]!r} is no file of the references")
    names = {f"case-{number:04d}": name for number, name in enumerate(sorted(expected), start=1)}
    pairs = []
    for case_id, name in names.items():
        known: dict[str, Any] = {key: value for key, value in told.get(name, {}).items() if value}
        subject = Subject(case_id, **{"patient": case_id, **known})
        image = shown.get(name) or shown.get(f"{name}_0000")  # nnU-Net numbers channels
        pairs.append(LabelPair(subject, expected[name], given.get(name), image))
    return pairs, names


def _files(folder: Path) -> dict[str, Path]:
    """Name without ending -> file."""
    return {
        path.name.removesuffix(ending): path
        for path in sorted(folder.iterdir())
        for ending in ENDINGS
        if path.name.endswith(ending) and path.is_file()
    }


def _told(table: Path | None) -> dict[str, dict[str, str]]:
    """case -> what the table says of it. Raises ValueError if it has no such column."""
    if table is None:
        return {}
    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{table} is no table ({str(error).splitlines()[0]})") from None
    if "case" not in rows or not set(rows.columns) <= set(COLUMNS):
        raise ValueError(f"{table} has the columns {', '.join(rows.columns)}; known: {', '.join(COLUMNS)}")
    return {row.pop("case"): row for row in rows.to_dict("records")}


def _labels(labels: Sequence[str], predictions: Path, references: Path) -> GivenLabels | None:
    if labels:
        return given_labels.of_pairs(pair for each in labels for pair in each.split(",") if pair.strip())
    for folder in (predictions, references, references.parent):
        if (path := folder / DATASET).is_file():
            try:
                return given_labels.of_dataset(json.loads(path.read_text()))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
    return None


def _by_values(loads: Sequence[Load[LabelPair]], left_out: dict[str, str]) -> GivenLabels:
    """Of references that nobody named the labels of; what cannot be read is left out when it is measured."""
    values: set[int] = set()
    for load in loads:
        try:
            array = read(load.item.reference).array
        except (ValueError, OSError):
            continue
        values |= {int(value) for value in np.unique(np.rint(array)) if 0 < value <= 2**15 - 2}
    if not values:
        raise ValueError("no reference holds any label; nothing can be measured")
    return given_labels.of_values(values)


def private_names(names: Mapping[str, str]) -> str:
    """CSV of case and file name."""
    return pd.DataFrame({"case": names.keys(), "file": names.values()}).to_csv(index=False)
