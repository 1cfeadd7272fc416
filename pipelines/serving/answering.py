"""One scan to its answer: label map, DICOM objects, report and picture, whichever are asked for.

    written, report = answer(request, Job.of(version), ["dicom-seg", "sr", "json"])

What the command, the service and the watch folder share. All files of an answer are complete, and in the audit log by
content, before any of them has its name. What writes DICOM is imported late: most answers are label maps.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.dicom.finding import DicomFinding, Maker, MeasuredVolume
from pipelines.dicom.reading import header, text
from pipelines.evaluation.confidence import VolumeInterval
from pipelines.intake import examination
from pipelines.pages import preview, scan_view
from pipelines.params.quality_bounds import Quality
from pipelines.release import audit
from pipelines.release.registry import RegisteredModel
from pipelines.scans import channels, vocabulary
from pipelines.scans.contracts import contract_of
from pipelines.scans.structure import IGNORED, Structure
from pipelines.scans.vocabulary import Vocabulary
from pipelines.scans.volume import read, reoriented, write_label
from pipelines.scans.volume_geometry import Geometry
from pipelines.serving import as_registered
from pipelines.serving.asked import DICOM, JSON, LABELMAP, NIFTI, PNG, RTSTRUCT, SEG, SR, VIEW, Request
from pipelines.serving.conditions import Conditions
from pipelines.serving.familiarity import Familiarity, Judged
from pipelines.serving.from_files import segment_files
from pipelines.serving.scan_search import MADE_HERE, description_of
from pipelines.serving.segmenter import Segmented, Segmenter, cached_segmenter
from pipelines.work.digests import sha256_of
from pipelines.work.wording import did_you_mean
from pipelines.work.writing import replacing

FLAG, REFUSE = "flag", "refuse"  # what becomes of a scan that is unlike those of training
UNFAMILIAR = "unfamiliar"
STANDING = "; "  # what follows it in a mark is the version's standing when the answer was made
KINDS = (NIFTI, *DICOM, JSON, PNG)


@dataclass(frozen=True)
class Job:
    """What all scans of one prediction share."""

    weights: Path
    conditions: Conditions
    labels_of: str | None
    modality: str | None
    bounds: Quality | None
    version: RegisteredModel
    known: Familiarity = field(default_factory=Familiarity)
    refuse_unfamiliar: bool = False

    @staticmethod
    def of(
        version: RegisteredModel, labels_of: str | None = None, modality: str | None = None, other_code: bool = False,
        unfamiliar: str = FLAG,
    ) -> "Job":  # fmt: skip
        """`unfamiliar`: what becomes of scans that are unlike those of training, FLAG or REFUSE.

        Raises ValueError if its weights are not to be had, anything is not as registered, or the code is another than
        its evaluation's."""
        if unfamiliar not in (FLAG, REFUSE):
            raise ValueError(f"--unfamiliar {unfamiliar}: must be {FLAG} or {REFUSE}")
        conditions = Conditions.from_json(version.record["conditions"]).checked(other_code)
        refuse = unfamiliar == REFUSE
        weights, known = as_registered.weights_of(version), as_registered.known_to(version, needed=refuse)
        return Job(weights, conditions, labels_of, modality, examination.bounds_here(), version, known, refuse)


def checked(to: Sequence[str], requests: Sequence[Request] = ()) -> tuple[str, ...]:
    """Kinds of results, each once. Raises ValueError if one is unknown, or cannot be had of the scans asked for."""
    for kind in to:
        if kind not in KINDS:
            raise ValueError(f"--to {kind}: no kind of result{did_you_mean(kind, KINDS)}")
    if not to:
        raise ValueError(f"--to names no kind of result; known: {', '.join(KINDS)}")
    if SR in to and not {SEG, LABELMAP} & set(to):
        raise ValueError(f"--to {SR} measures the segments of a SEG; ask for --to {SEG},{SR}")
    plain = next((request for request in requests if not request.series and not request.refused), None)
    if plain and (wanted := [kind for kind in to if kind in DICOM]):
        raise ValueError(f"--to {','.join(wanted)} needs a DICOM series, and {plain.told_as} is none; ask for {NIFTI}")
    return tuple(dict.fromkeys(to))


def mark_of(request: Request, job: Job) -> str:
    """By which a repeat knows its own: of weights, settings, and the scan's files; and what the version's standing
    was, in the 80 bytes that a NIfTI header has for it."""
    files: list[Any] = [each.sha256 for each in request.series]  # the very series, wherever it lies
    if not request.series:
        looked_at = [(role, channels.file_of(file).stat()) for role, file in sorted(request.files.items())]
        files = [(role, status.st_size, status.st_mtime_ns) for role, status in looked_at]
    told = repr((job.version.record["weights_sha256"], job.conditions, job.labels_of, job.modality, files))
    return f"{MADE_HERE} {hashlib.sha256(told.encode()).hexdigest()[:16]}{STANDING}{job.version.mark}"


def known_mark(file: Path) -> str:
    """Of the answer that a file belongs to, without the standing; empty if it is of none."""
    try:
        if file.suffix == ".json":
            mark = str(json.loads(file.read_text())["mark"])
        elif file.suffix == ".png":
            mark = preview.mark_of_picture(file)
        elif file.suffix == ".dcm":
            mark = f"{MADE_HERE} {text(header(file), 'DeviceSerialNumber')}"
        else:
            mark = description_of(file)
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return mark.partition(STANDING)[0]


def answer(
    request: Request, job: Job, to: Sequence[str] = (NIFTI,), segmenter: Segmenter | None = None
) -> tuple[list[Path], dict[str, Any]]:
    """The files written, and the report, which is what `json` writes. `to`: as `checked`.

    Raises ValueError with what is refused of the scan, or OSError; then no file is written.
    """
    inputs = _inputs(request)
    segmenter = segmenter or cached_segmenter(job.weights, job.conditions)
    segmented, geometry, notes, judged = segment_files(
        segmenter, request.files, job.modality, job.bounds, job.known, job.refuse_unfamiliar
    )
    made = _Answer(request, job, segmenter, segmented, geometry, judged)
    notes = [*(note for each in request.series for note in each.notes), *notes]
    if not made.structures and (kept := [kind for kind in to if kind in DICOM]):
        notes.append(f"nothing was found: no {', '.join(kept)}, as an object without a segment does not exist")
        to = [kind for kind in to if kind not in DICOM]
    report: dict[str, Any] = {
        "mark": made.mark,
        "made_by": _made_by(job),
        "structures": made.measures(),
        "familiarity": judged.to_json(),
        "warnings": notes,
    }
    with ExitStack() as whole:
        order = sorted(to, key=[*KINDS[:-2], PNG, VIEW, JSON].index)  # the report tells of the others
        files = {kind: whole.enter_context(replacing(request.output(kind))) for kind in order}
        report |= {"inputs": inputs, "outputs": {}}
        for kind, file in files.items():
            made.write(kind, file, report)
            report["outputs"][kind] = sha256_of(file)
        audit.append(
            "predict", record_sha256=job.version.record_sha256, inputs=inputs, outputs=[*report["outputs"].values()]
        )
    return [request.output(kind) for kind in order], report


def _inputs(request: Request) -> list[str]:
    if request.series:
        return [sha256 for each in request.series for sha256 in each.sha256]
    return [sha256_of(file) for file in dict.fromkeys(map(channels.file_of, request.files.values()))]


def _made_by(job: Job) -> dict[str, Any]:
    record = job.version.record
    told = {name: record.get(name) for name in ("weights_sha256", "manifest_sha256", "identity")}
    statement = job.version.standing.statement
    return {**job.version.to_json(), **told, "release_sha256": statement.sha256 if statement else None}


@dataclass(frozen=True)
class _Answer:
    request: Request
    job: Job
    segmenter: Segmenter
    segmented: Segmented
    geometry: Geometry
    judged: Judged

    @property
    def mark(self) -> str:
        return mark_of(self.request, self.job)

    @cached_property
    def words(self) -> Vocabulary:
        return vocabulary.of_records(self.segmenter.card.vocabulary)

    @cached_property
    def voxels(self) -> dict[int, int]:
        """Their number by id, of those that have any."""
        counts = sum(np.bincount(plane.ravel(), minlength=2**15) for plane in self.segmented.label.T)
        return {value: int(np.asarray(counts)[value]) for value in np.flatnonzero(counts).tolist()}

    @cached_property
    def structures(self) -> list[Structure]:
        """Those with a voxel, by id."""
        words = {each.id: each for each in self.words.values()}
        return [words[value] for value in self.voxels if value not in (0, IGNORED)]

    def measured(self, name: str) -> MeasuredVolume:
        """Of a structure or union: zero where it has no voxel."""
        voxel_ml = abs(float(np.linalg.det(np.asarray(self.geometry.affine)[:3, :3]))) / 1000
        volume_ml = sum(self.voxels.get(value, 0) for value in self.words.covered_ids(name)) * voxel_ml
        told = self.job.version.record.get("volume", {}).get(name)
        interval = VolumeInterval(**told) if told else None
        bounds = interval.of(volume_ml) if interval else None
        confidence = self.segmented.confidence.get(name, float("nan"))
        sure = round(confidence, 4) if np.isfinite(confidence) else None
        return MeasuredVolume(volume_ml, bounds, interval.level if interval and bounds else None, sure)

    def measures(self) -> dict[str, dict[str, Any]]:
        """Of all that the network looks for here, found or not."""
        names = dict.fromkeys([*self.segmented.confidence, *(each.name for each in self.structures)])
        return {name: asdict(self.measured(name)) for name in names}

    @cached_property
    def finding(self) -> DicomFinding:
        made_by = _made_by(self.job)
        digests = {name: value for name, value in made_by.items() if name.endswith("_sha256") and value}
        version, remark = self.job.version, UNFAMILIAR if self.judged.unfamiliar else ""
        maker = Maker(version.name, str(version.version), version.mark, digests, remark)
        slices = self.segmented.label.transpose(2, 1, 0)
        measured = {each.name: self.measured(each.name) for each in self.structures}
        return DicomFinding(self.request.series[0], slices, self.structures, measured, maker, self.mark)

    @cached_property
    def seg(self) -> Any:
        from pipelines.dicom.segmentation_object import segments_of

        return segments_of(self.finding, SEG)

    @cached_property
    def labelmap(self) -> Any:
        from pipelines.dicom.segmentation_object import segments_of

        return segments_of(self.finding, LABELMAP)

    def write(self, kind: str, file: Path, report: dict[str, Any]) -> None:
        if kind in DICOM:
            self._object(kind, report).save_as(file, enforce_file_format=True)
        elif kind == NIFTI:
            write_label(file, self._own_values(), np.asarray(self.geometry.affine), self.mark)
        elif kind == JSON:
            file.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
        else:
            self._picture(kind, file, report)

    def _object(self, kind: str, report: dict[str, Any]) -> Any:
        if kind == RTSTRUCT:
            from pipelines.dicom.contour_object import contour_set

            return contour_set(self.finding)
        if kind == SR:
            from pipelines.dicom.measurement_object import measurement_report

            return measurement_report(self.finding, self.seg if SEG in report["outputs"] else self.labelmap)
        return self.seg if kind == SEG else self.labelmap

    def _own_values(self) -> np.ndarray:
        if self.job.labels_of is None:
            return self.segmented.label
        return contract_of(self.job.labels_of).from_structures(self.segmented.label, self.words)

    def _picture(self, kind: str, file: Path, report: dict[str, Any]) -> None:
        name, scan = next(iter(self.request.files.items()))
        if not name or name.isdigit():
            name = (self.job.modality or self.segmenter.plan.modalities[0]).split(",")[0].strip()
        volume = read(scan)
        label = reoriented(self.segmented.label, volume.affine).array
        if kind == VIEW:
            told = {"measures": report["structures"], "warnings": report["warnings"], "made_by": report["made_by"]}
            scan_view.write(file, volume, label, name, self.structures, told)
        else:
            told_as = self.job.version.told + (f"; {UNFAMILIAR} scan" if self.judged.unfamiliar else "")
            preview.draw(file, volume, label, name, self.structures, told_as, self.mark)
