"""Segment the held-out scans with some weights and measure them: what stage `evaluate` and comparisons share.

    found = segment_and_measure(weights, conditions, memory_bytes, predictions)

Every prediction is mapped back to the scan's own grid, kept there as a label map of structure ids, and compared with
the label as the source wrote it. What cannot be measured is left out, with its reason.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model.data import casefile
from model.data.casefile import Case
from pipelines.evaluation import trust
from pipelines.evaluation.measuring import Told, measure
from pipelines.evaluation.score import Score, Subject
from pipelines.intake import sufficiency
from pipelines.scans import labels, manifest, vocabulary
from pipelines.scans.manifest import TEST, Row
from pipelines.scans.volume import VolumeError, restore, write_label
from pipelines.scans.volume_geometry import Geometry
from pipelines.serving import footprint
from pipelines.serving.appearance import appearance
from pipelines.serving.certainty import FOREGROUND, CertaintyCounts
from pipelines.serving.conditions import Conditions
from pipelines.serving.familiarity import NETWORK, Look
from pipelines.serving.segmenter import Segmented, Segmenter, cached_segmenter, scans_at_a_time
from pipelines.work import faults, project, within_memory
from pipelines.work.within_memory import Load, LocalExecutor, Lost


@dataclass(frozen=True)
class MeasuredCase:
    """`calibration`: voxels that reference or prediction has, by how sure the network was of them. `look`: as
    `pipelines.serving.familiarity` judges it."""

    source: str
    scores: list[Score]
    calibration: CertaintyCounts | None = None
    look: Look = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOut:
    """`cases`: in order of their id. `left_out`: case -> reason."""

    cases: list[MeasuredCase] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def scores(self) -> list[Score]:
        return [score for case in self.cases for score in case.scores]

    @property
    def calibration(self) -> dict[str, Any] | None:
        return trust.calibrated([case.calibration for case in self.cases])


@dataclass(frozen=True)
class HeldOutJob:
    """What all cases of one evaluation share. `predictions`: the folder that their label maps go to."""

    rows: dict[str, Row]
    weights: Path
    conditions: Conditions
    never_drawn: frozenset[str]
    predictions: Path


def segment_and_measure(
    weights: Path, conditions: Conditions, memory_bytes: int, predictions: Path, only: Collection[str] | None = None
) -> HeldOut:
    """Every labelled held-out case, or of them `only` these. `predictions`: a folder that exists; CASE.nii.gz each go
    there."""
    rows = {row.case_id: row for row in manifest.read()}
    job = HeldOutJob(rows, weights, conditions, frozenset(sufficiency.never_drawn(list(rows.values()))), predictions)
    loads, left_out, found = [], dict[str, str](), dict[str, MeasuredCase]()
    for path in sorted((project.CASES / TEST).glob("*.safetensors")):
        if only is not None and path.stem not in only:
            continue
        try:
            if (case := casefile.read(path)).record.annotated:
                need = footprint.segmentation_bytes(case, weights, conditions)
                loads.append(Load(path, need, footprint.segmentation_seconds(case)))
        except ValueError as error:
            left_out[path.stem] = str(error)
    where = LocalExecutor(memory_bytes, slots=scans_at_a_time())
    for path, outcome in within_memory.each(partial(measure_case, job=job), loads, where, "evaluate"):
        if isinstance(outcome, MeasuredCase):
            found[path.stem] = outcome
        else:
            left_out[path.stem] = outcome.reason if isinstance(outcome, Lost) else outcome
    return HeldOut([found[name] for name in sorted(found)], dict(sorted(left_out.items())))


def measure_case(path: Path, job: HeldOutJob) -> MeasuredCase | str:
    """One held-out, labelled case file, or the reason why it cannot be measured."""
    try:
        case = casefile.read(path)
        if case.record.split != TEST:
            raise ValueError(f"{path} is of split {case.record.split!r}, not {TEST}; rerun preprocess")
        if case.record.case_id not in job.rows:
            raise ValueError(f"{project.MANIFEST} does not know it; rerun preprocess")
        segmenter = cached_segmenter(job.weights, job.conditions)
        if case.record.source not in segmenter.card.patch_size:
            raise ValueError(f"the network was trained on no scan of its source, {case.record.source}")
        return _measured(case, segmenter, job)
    except Exception as error:
        if (reason := faults.told(error)) is None:
            raise
        return reason


def _measured(case: Case, segmenter: Segmenter, job: HeldOutJob) -> MeasuredCase:
    row, geometry = job.rows[case.record.case_id], Geometry.from_json(case.record.geometry)
    found = _segmented(case, segmenter, geometry)
    reference = read_reference(row, geometry)
    if reference.shape != found.label.shape:
        raise ValueError(f"its label has shape {reference.shape}, the scan {found.label.shape}; rerun ingest")
    write_label(job.predictions / f"{row.case_id}.nii.gz", found.label, np.asarray(geometry.affine))
    spacing_mm = np.linalg.norm(np.asarray(geometry.affine)[:3, :3], axis=0)
    scores = measure(
        subject_of(row), reference, found.label, tuple(spacing_mm.tolist()), case.record.annotated,
        vocabulary.here(), job.never_drawn, Told(found.confidence, found.flip_dice),
    )  # fmt: skip
    look = {**appearance(np.asarray(case.image), case.record.modalities, geometry), NETWORK: found.bottleneck}
    return MeasuredCase(row.source, scores, found.reliability.get(FOREGROUND), look)


def _segmented(case: Case, segmenter: Segmenter, geometry: Geometry) -> Segmented:
    record = case.record
    return segmenter.segment(
        np.asarray(case.image), record.modalities, record.source, geometry, np.asarray(case.label), record.annotated
    )


def read_reference(row: Row, geometry: Geometry) -> np.ndarray:
    """Structure ids on the file's own grid (i, j, k). Raises ValueError with what is wrong with the file."""
    try:
        return restore(labels.read(row), geometry.whole)
    except VolumeError:  # of the file, which it names
        raise
    except ValueError as error:
        raise ValueError(f"label: {error}") from None


def subject_of(row: Row) -> Subject:
    """What the manifest knows of a scan; of a DICOM series also the scanner's make and model."""
    slice_mm = max(row.spacing_mm) if row.spacing_mm else float("nan")
    modality = "+".join(sorted(row.modalities))
    return Subject(row.case_id, row.patient, row.source, modality, "", _scanner(row), slice_mm)


def _scanner(row: Row) -> str:
    """From the record that deidentify left beside the volume."""
    image = Path(row.images[0].path) if row.images else Path()
    if not image.is_relative_to(project.DEIDENTIFIED):
        return ""
    record = image.with_name(image.name.removesuffix(".nii.gz").rpartition("-")[0] + ".json")
    try:
        attributes = json.loads((project.root() / record).read_text())["attributes"]
    except (OSError, ValueError, KeyError):
        return ""
    return " ".join(str(attributes[name]) for name in ("Manufacturer", "ManufacturerModelName") if attributes.get(name))
