"""Does a version's dossier hold? Its label maps scored anew, some of its scans segmented anew.

    remeasure(folder) -> what does not hold, a sentence each; nothing if all does

Every label map that evaluation left is held once more against the label in `data/`, whose sha256 must be the
manifest's: the figures must be those of the dossier, to the last digits. So labels that were others while the stage
ran, and tables that were edited, are found. That the label maps are the network's own shows a sample: the stored
weights segment some scans again, from the files that were handed in. Which, the digests of weights and evaluation draw:
whoever changes anything of them changes the draw. They are timed, for the plan's bounds on runtime and memory.
"""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from model.data import casefile
from pipelines.cases.case_making import prepare_case
from pipelines.evaluation import folders, tables
from pipelines.evaluation.evaluation_folder import PREDICTIONS
from pipelines.evaluation.measuring import measure
from pipelines.evaluation.score import Score
from pipelines.evaluation.views import label_map
from pipelines.intake import sufficiency
from pipelines.release import plan, run_identity, store
from pipelines.release.dossier import EVALUATION, MANIFEST, ORIGIN, RECORD
from pipelines.release.measurement import measured, read_json
from pipelines.scans import manifest, scan_files, vocabulary
from pipelines.scans.manifest import TEST, Row
from pipelines.scans.volume import restore
from pipelines.scans.volume_geometry import Geometry
from pipelines.serving.conditions import Conditions
from pipelines.serving.held_out import read_reference, subject_of
from pipelines.serving.segmenter import Segmenter, cached_segmenter
from pipelines.work import faults, memory, project, within_memory
from pipelines.work.memory import GIB
from pipelines.work.within_memory import Load, LocalExecutor, Lost

# Of the voxels that either label map gives a structure, where another processor rounds otherwise. Measured of a trained
# network between float32 and bfloat16: 0.998 at worst, in 6 hippocampi.
SAME_ELSEWHERE = 0.99
SAME = 1e-9  # relative: figures are computed anew by the same code
TOLD_BY_NETWORK = ("confidence", "flip_dice")  # no label map holds them


@dataclass(frozen=True)
class Remeasured:
    """`faults`: what does not hold. Of the scans segmented anew: the slowest one's seconds, from its files to its label
    map, and the peak of this process's memory; None if none was."""

    faults: tuple[str, ...]
    seconds_per_case: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class LabelMapJob:
    """What the scoring of all label maps shares. `kept`: the scores of the dossier, by case."""

    predictions: Path
    kept: Mapping[str, Sequence[Score]]
    never_drawn: frozenset[str]


def remeasure(folder: Path, again: int = 2) -> list[str]:
    """`folder`: a dossier that was found whole. `again`: scans that are segmented anew."""
    found = anew(folder, again)
    return [*found.faults, *_above_plan(found)]


def anew(folder: Path, again: int = 2) -> Remeasured:
    """The same, and what segmenting cost, held against no bound. Raises ValueError if a file of the dossier
    cannot be read."""
    rows = {row.case_id: row for row in manifest.read(folder / MANIFEST)}
    kept: dict[str, list[Score]] = {}
    for score in tables.read(folder / EVALUATION / tables.PARQUET):
        kept.setdefault(score.case_id, []).append(score)
    told = measured(folder)
    job = LabelMapJob(folder / EVALUATION / PREDICTIONS, kept, frozenset(sufficiency.never_drawn(list(rows.values()))))
    found = [*_of_the_set(rows, kept, told.left_out), *_scored_anew(rows, job)]
    if manifest.test_set_sha256(folder / MANIFEST) != told.test_set_sha256:
        found.append(f"the record is of test set {told.test_set_sha256[:12]}, the manifest holds out another one")
    drawn = _drawn(read_json(folder / RECORD), [case for case in kept if case in rows], again)
    try:
        segmented = _segmented_anew(folder, [rows[case] for case in drawn])
    except (ValueError, OSError) as error:
        return Remeasured((*found, f"segmenting anew: {error}"))
    return Remeasured((*found, *segmented.faults), segmented.seconds_per_case, segmented.memory_bytes)


def _of_the_set(rows: Mapping[str, Row], kept: Mapping[str, Any], left_out: Mapping[str, str]) -> Iterator[str]:
    """Every labelled scan that was held out was measured, or is listed as left out; and no other."""
    held_out = {row.case_id for row in manifest.usable(list(rows.values())) if row.split == TEST and row.annotated}
    for case_id in sorted(held_out - kept.keys() - left_out.keys()):
        yield f"{case_id} was held out, and neither measured nor left out with a reason; evaluate again"
    for case_id in sorted(kept.keys() - held_out):
        yield f"{case_id} was measured, and the manifest holds out no such scan; evaluate again"


def _scored_anew(rows: Mapping[str, Row], job: LabelMapJob) -> Iterator[str]:
    loads = [
        Load(rows[case], memory.with_overhead(folders.VOXEL_BYTES * voxels), folders.MEASURE_S * voxels)
        for case in sorted(job.kept.keys() & rows.keys())
        for voxels in [prod(rows[case].shape)]
    ]
    where = LocalExecutor(memory.free_bytes())
    for row, outcome in within_memory.each(partial(score_anew, job=job), loads, where, "remeasure"):
        if reason := outcome.reason if isinstance(outcome, Lost) else outcome:
            yield f"{row.case_id}: {reason.removeprefix(f'{row.case_id}: ')}"


def score_anew(row: Row, job: LabelMapJob) -> str:
    """Why the figures of a case do not hold; empty if they do."""
    try:
        geometry = Geometry.of(scan_files.read(row, row.images[0]))
        predicted = restore(label_map(job.predictions / f"{row.case_id}.nii.gz"), geometry.whole)
        spacing_mm = np.linalg.norm(np.asarray(geometry.affine)[:3, :3], axis=0)
        scores = measure(
            subject_of(row), read_reference(row, geometry), predicted, tuple(spacing_mm.tolist()), row.annotated,
            vocabulary.here(), job.never_drawn,
        )  # fmt: skip
    except Exception as error:
        if (reason := faults.told(error)) is None:
            raise
        return reason
    return next(_differing(job.kept[row.case_id], scores), "")


def _differing(kept: Sequence[Score], found: Sequence[Score]) -> Iterator[str]:
    names = [score.structure for score in found]
    if [score.structure for score in kept] != names:
        yield f"was scored on {', '.join(score.structure for score in kept)}; measured anew on {', '.join(names)}"
        return
    for before, now in zip(kept, found, strict=True):
        for name in (field.name for field in fields(Score) if field.name not in TOLD_BY_NETWORK):
            one, other = getattr(before, name), getattr(now, name)
            if not _same(one, other):
                yield f"{before.structure}: {name} was {_shown(one)}, measured anew it is {_shown(other)}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=SAME, abs_tol=SAME) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _drawn(record: Mapping[str, Any], cases: Sequence[str], count: int) -> list[str]:
    """By the weights and the digests of what was evaluated."""
    seed = repr((record["weights_sha256"], sorted(record.get("evaluation_files", {}).items())))
    return sorted(cases, key=lambda case: hashlib.sha256(f"{seed}:{case}".encode()).hexdigest())[:count]


def _segmented_anew(folder: Path, rows: Sequence[Row]) -> Remeasured:
    record = read_json(folder / RECORD)
    if not rows:
        return Remeasured(())
    conditions = Conditions.from_json(record["conditions"]).checked()
    segmenter = cached_segmenter(store.find(record["weights_sha256"], ""), conditions)
    if list(segmenter.card.classes) != list(record["structures"]):
        told = ", ".join(record["structures"])
        return Remeasured((f"the record names {told}; the weights tell {', '.join(segmenter.card.classes)} apart",))
    same_processor = read_json(folder / ORIGIN).get("processor") == run_identity.processor()
    found, seconds = [], []
    _forget_peak()
    for row in rows:
        began = time.perf_counter()
        label = _segmented(row, segmenter)
        seconds.append(time.perf_counter() - began)
        before = restore(label_map(folder / EVALUATION / PREDICTIONS / f"{row.case_id}.nii.gz"), _whole(row))
        share = _agreement(before, label)
        if share < (1.0 if same_processor else SAME_ELSEWHERE):
            found.append(
                f"{row.case_id}: segmented anew, {share:.2%} of its segmented voxels are as in the stored label map"
            )
    return Remeasured(tuple(found), max(seconds), _peak_bytes())


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Of the voxels that either gives a structure; 1 if neither gives any."""
    if one.shape != other.shape:
        return 0.0
    shown = (one != 0) | (other != 0)
    return float((one == other)[shown].mean()) if shown.any() else 1.0


def _segmented(row: Row, segmenter: Segmenter) -> np.ndarray:
    """Structure ids on the file's own grid, as stage `evaluate` makes them: from the scan's own files, through a case
    file, which rounds."""
    with TemporaryDirectory(dir=project.state_folder()) as folder:
        path = Path(folder, "case.safetensors")
        casefile.write(path, prepare_case(row, segmenter.plan, points=1))
        case = casefile.read(path)
        geometry = Geometry.from_json(case.record.geometry)
        return segmenter.segment(np.asarray(case.image), case.record.modalities, row.source, geometry).label


def _whole(row: Row) -> Geometry:
    return Geometry.of(scan_files.read(row, row.images[0]))


def _above_plan(costs: Remeasured) -> Iterator[str]:
    if costs.seconds_per_case is None or costs.memory_bytes is None:
        return
    bounds = plan.read().bounds
    for what, found, bound in (
        ("seconds", costs.seconds_per_case, bounds.seconds_per_case_at_most),
        ("GiB of memory", costs.memory_bytes / GIB, bounds.memory_gib_at_most),
    ):
        if bound is not None and found > bound:
            yield f"a scan took {found:.3g} {what} here, and the plan allows {bound:g}; take a smaller network"


def _forget_peak() -> None:
    """Linux: the peak of this process's memory begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
