"""Segment scans with a registered version: a NIfTI file, or a folder of them.

A folder may have any layout that training reads; else names tell the modality where several files make one scan
(`NAME_flair.nii.gz` and `NAME_t1ce.nii.gz`). Where they do not, a file is of the model's own modality, or of the one
given. A scan passes the examination that training scans pass
(pipelines/intake/quality.py), and the result lies on its own grid. Several scans run side by side as far as memory is
predicted to suffice; whatever happens to one, the others go on.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch

from model import weights_file
from model.weights_file import Card
from pipelines.cases.preparation import Preprocessing
from pipelines.cases.resampling import resampled_shape
from pipelines.intake import examination
from pipelines.params.quality_bounds import Quality
from pipelines.release import audit, registry
from pipelines.release.registry import RegisteredModel
from pipelines.scans import channels, vocabulary
from pipelines.scans.contracts import contract_of
from pipelines.scans.volume import VolumeError, outline, write_label
from pipelines.serving import footprint
from pipelines.serving.as_trained import meet
from pipelines.serving.conditions import Conditions
from pipelines.serving.from_files import segment_files
from pipelines.serving.requests import Request, requests
from pipelines.serving.scan_search import MADE_HERE, description_of
from pipelines.serving.segmenter import Segmenter, cached_segmenter, scans_at_a_time
from pipelines.work import environment, within_memory
from pipelines.work.digests import sha256_of
from pipelines.work.progress import track
from pipelines.work.within_memory import CHUNK_S, Load, LocalExecutor, Lost
from pipelines.work.wording import listed
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)

GIB = 1 << 30
STANDING = "; "  # what follows it in a label map's free text is the version's standing when it was made
VOXEL_S = 5e-6  # roughly, of a voxel of the network's grid on one core: only the time left is told by it


@dataclass(frozen=True)
class Job:
    """What all scans of one prediction share. `record_sha256`: of the version, for the audit log. `mark`: how their
    label maps' free text begins."""

    weights: Path
    conditions: Conditions
    labels_of: str | None
    modality: str | None
    bounds: Quality | None
    record_sha256: str
    mark: str = MADE_HERE


@dataclass(frozen=True)
class Outcome:
    """Of one request: what was noted, and why it failed, if it did."""

    notes: list[str] = field(default_factory=list)
    failure: str = ""


def predict(
    source: Path,
    target: Path,
    model: str,
    labels_of: str | None = None,
    modality: str | None = None,
    overwrite: bool = False,
    other_code: bool = False,
) -> Iterator[Path]:
    """Segment `source` (file or folder) into `target` (a file, or a folder); each path once it is written.

    `model`: `models:/NAME@ALIAS` or `models:/NAME/VERSION`. `labels_of`: write a source's own label values instead of
    the system's structure ids. `overwrite`: make what is there anew. `other_code`: see `Conditions.checked`.
    Raises ValueError, before anything is written, if nothing may be; and at the end, if any scan failed.
    """
    if labels_of is not None:
        contract_of(labels_of).inverse()  # refuses what cannot be written before the network is loaded
    asked = requests(source, target)
    version = registry.find(model)
    folder, conditions = version.weights(), Conditions.from_json(version.record["conditions"]).checked(other_code)
    job = Job(folder, conditions, labels_of, modality, examination.bounds_here(), version.record_sha256)
    marks = {request.target: _mark(request, job, version) for request in asked}
    due = asked if overwrite else [request for request in asked if not _is_there(request, marks[request.target])]
    log.info("predict: %d scans, %d of them done before, with %s", len(asked), len(asked) - len(due), version.told)
    return _written(due, job, marks)


def _is_there(request: Request, mark: str) -> bool:
    """Made before from the same, in the same way. Raises ValueError if something else lies there."""
    if not request.target.exists():
        return False
    if description_of(request.target).partition(STANDING)[0] != mark.partition(STANDING)[0]:
        raise ValueError(
            f"{request.target} exists, and is not of this scan, these weights and these settings; --overwrite replaces "
            "it, or name another OUTPUT"
        )
    return True


def _mark(request: Request, job: Job, version: RegisteredModel) -> str:
    """By which a repeat knows its own: of weights, settings, and the scan's files by size and time; and what the
    version's standing was, in the 80 bytes that a NIfTI header has for it."""
    looked_at = [(role, channels.file_of(file).stat()) for role, file in sorted(request.files.items())]
    files = [(role, status.st_size, status.st_mtime_ns) for role, status in looked_at]
    told = repr((version.record["weights_sha256"], job.conditions, job.labels_of, job.modality, files))
    return f"{MADE_HERE} {hashlib.sha256(told.encode()).hexdigest()[:16]}{STANDING}{version.mark}"


def _written(due: list[Request], job: Job, marks: Mapping[Path, str]) -> Iterator[Path]:
    failed: list[tuple[str, str]] = []
    for request, outcome in _outcomes(due, job, marks):
        for note in outcome.notes:
            log.warning("predict: %s: %s", request.told_as, note)
        if outcome.failure:
            failed.append((request.told_as, outcome.failure))
            log.warning("predict: left out %s: %s", *failed[-1])
        else:
            yield request.target
    if failed:
        raise ValueError(f"{len(failed)} of {len(due)} scans could not be segmented: {listed(failed)}")


def _outcomes(due: list[Request], job: Job, marks: Mapping[Path, str]) -> Iterator[tuple[Request, Outcome]]:
    """Those that cannot fit at once, the others as they come."""
    card = weights_file.read_card(job.weights)
    own = sum(file.stat().st_size for file in weights_file.files(job.weights))
    free, free_on_gpu = footprint.free_here(), footprint.free_on_gpu()
    loads: list[Load[tuple[Request, str]]] = []
    for request in due:
        try:
            need, on_gpu, seconds = _need(request, job, card)
        except VolumeError as error:
            yield request, Outcome(failure=str(error))
            continue
        if own + need > free:
            yield request, Outcome(failure=_too_large(own + need, free))
        elif own + on_gpu > free_on_gpu:
            yield request, Outcome(failure=_too_large(own + on_gpu, free_on_gpu, " on the GPU"))
        else:
            loads.append(Load((request, marks[request.target]), own + need, seconds))
    work = partial(segment_one, job=job)
    if scans_at_a_time() == 1 or len(loads) == 1:
        segmenter = Segmenter.load(job.weights, job.conditions) if loads else None
        items = track((load.item for load in loads), len(loads), "predict")
        yield from ((item[0], work(item, segmenter=segmenter)) for item in items)
        return
    for item, outcome in within_memory.each(work, loads, LocalExecutor(free), "predict"):
        yield item[0], Outcome(failure=outcome.reason) if isinstance(outcome, Lost) else outcome


def _too_large(need: int, free: int, where: str = "") -> str:
    return f"needs {need / GIB:.2g} GiB{where}, {free / GIB:.2g} are free; crop it, or free memory"


def _need(request: Request, job: Job, card: Card) -> tuple[int, int, float]:
    """Bytes beside the weights, here and on a GPU, and roughly the seconds.

    Raises VolumeError if the names and headers already forbid the scan.
    """
    plan = Preprocessing.from_json(card.preprocessing)
    met = meet(plan, {name: outline(file) for name, file in request.files.items()}, job.modality)
    scan, source, record = met.scan, met.source, plan.sources[met.source]
    first = next(iter(scan.values()))
    grid = resampled_shape(first.shape, first.spacing_mm, record.spacing_mm)
    here = footprint.segment_bytes(first, len(scan), record, card, source, job.conditions)
    on_gpu = footprint.gpu_bytes(grid, len(scan), card, source, job.conditions)
    return here, on_gpu, CHUNK_S + VOXEL_S * prod(grid)


def segment_one(item: tuple[Request, str], job: Job, segmenter: Segmenter | None = None) -> Outcome:
    """Read, segment and write one scan, or say why not: one bad scan must not stop the others."""
    request, mark = item
    try:
        inputs = [sha256_of(file) for file in dict.fromkeys(map(channels.file_of, request.files.values()))]
        segmenter = segmenter or cached_segmenter(job.weights, job.conditions)
        segmented, geometry, notes = segment_files(segmenter, request.files, job.modality, job.bounds)
        label = segmented.label
        if job.labels_of is not None:
            words = vocabulary.of_records(segmenter.card.vocabulary)
            label = contract_of(job.labels_of).from_structures(label, words)
        with replacing(request.target) as temporary:
            write_label(temporary, label, np.asarray(geometry.affine), mark)
            told = {"inputs": inputs, "outputs": [sha256_of(temporary)]}
            audit.append("predict", record_sha256=job.record_sha256, **told)  # before anybody can use it
        return Outcome(notes)
    except Exception as error:  # of any kind: it is told, counted, and the command ends with 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # a GPU that was too small for this scan may do for the next one
        if environment.debugging():
            log.exception("predict: %s", request.told_as)
        return Outcome(failure=_reason(error))


def _reason(error: Exception) -> str:
    """In one line: torch adds its C++ trace."""
    told = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in told.lower():
        return f"does not fit in memory ({told or type(error).__name__}); crop it, or free memory"
    return told if isinstance(error, ValueError | OSError) and told else f"{type(error).__name__}: {told}"
