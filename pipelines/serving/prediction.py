"""Segment scans with a registered version: a NIfTI file, a DICOM series, a zip, or a folder of them.

A folder may have any layout that training reads; else names tell the modality where several files make one scan
(`NAME_flair.nii.gz` and `NAME_t1ce.nii.gz`). Where they do not, a file is of the model's own modality, or of the one
given. A scan passes the examination that training scans pass
(pipelines/intake/quality.py), and the result lies on its own grid. Several scans run side by side as far as memory is
predicted to suffice; whatever happens to one, the others go on.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from model import weights_file
from model.weights_file import Card
from pipelines.cases.preparation import Preprocessing
from pipelines.cases.resampling import resampled_shape
from pipelines.release import registry
from pipelines.scans.contracts import contract_of
from pipelines.scans.volume import VolumeError, outline
from pipelines.serving import footprint
from pipelines.serving.answering import FLAG, STANDING, Job, answer, checked, known_mark, mark_of
from pipelines.serving.as_trained import meet
from pipelines.serving.asked import NIFTI, Request
from pipelines.serving.requests import requests
from pipelines.serving.segmenter import Segmenter, scans_at_a_time
from pipelines.work import environment, within_memory
from pipelines.work.progress import track
from pipelines.work.within_memory import CHUNK_S, Load, LocalExecutor, Lost
from pipelines.work.wording import listed

log = logging.getLogger(__name__)

GIB = 1 << 30
VOXEL_S = 5e-6  # roughly, of a voxel of the network's grid on one core: only the time left is told by it


@dataclass(frozen=True)
class Outcome:
    """Of one request: what was noted, why it failed, if it did, and what was written and measured, if not.

    `scan`: what it is called. `structures`: as the report has them. `seconds`: in the process that did it.
    """

    notes: list[str] = field(default_factory=list)
    failure: str = ""
    written: list[Path] = field(default_factory=list)
    structures: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    scan: str = ""

    def to_json(self) -> dict[str, Any]:
        """Without the results' paths, which may be called as patients are."""
        return {
            "scan": self.scan,
            "refused": self.failure or None,
            "structures": self.structures,
            "warnings": self.notes,
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True)
class Prediction:
    """All scans of an input that are to be segmented; `done_before` are not among them."""

    due: list[Request]
    done_before: int
    job: Job
    to: tuple[str, ...]
    scratch: TemporaryDirectory[str]  # of what is read from DICOM

    @staticmethod
    def of(
        source: Path,
        target: Path,
        model: str,
        labels_of: str | None = None,
        modality: str | None = None,
        overwrite: bool = False,
        other_code: bool = False,
        to: Sequence[str] = (NIFTI,),
        unfamiliar: str = FLAG,
    ) -> "Prediction":
        """Of `source` (file, folder or zip) into `target` (a file, or a folder).

        `model`: `models:/NAME@ALIAS` or `models:/NAME/VERSION`. `labels_of`: write a source's own label values instead
        of the system's structure ids. `overwrite`: make what is there anew. `other_code`: see `Conditions.checked`.
        `to`: kinds of results. `unfamiliar`: scans unlike those of training, FLAG or REFUSE. Raises ValueError, before
        anything is written, if nothing may be.
        """
        if labels_of is not None:
            contract_of(labels_of).inverse()  # refuses what cannot be written before the network is loaded
        checked(to)
        scratch = TemporaryDirectory(prefix="medseg-")
        try:
            asked = requests(source, target, Path(scratch.name), modality)
            kinds = checked(to, asked)
            version = registry.find(model)
            job = Job.of(version, labels_of, modality, other_code, unfamiliar)
            due = [each for each in asked if overwrite or each.refused or not _is_there(each, job, kinds)]
        except BaseException:
            scratch.cleanup()
            raise
        done_before = len(asked) - len(due)
        log.info("predict: %d scans, %d of them done before, with %s", len(asked), done_before, version.told)
        return Prediction(due, done_before, job, kinds, scratch)

    def outcomes(self) -> Iterator[Outcome]:
        """As they come, once each. Raises ValueError at the end if any scan failed."""
        failed: list[tuple[str, str]] = []
        with self.scratch:
            for request, found in _outcomes(self.due, self.job, self.to):
                outcome = replace(found, scan=request.told_as)
                for note in outcome.notes:
                    log.warning("predict: %s: %s", outcome.scan, note)
                if outcome.failure:
                    failed.append((outcome.scan, outcome.failure))
                    log.warning("predict: left out %s: %s", *failed[-1])
                yield outcome
        if failed:
            raise ValueError(f"{len(failed)} of {len(self.due)} scans could not be segmented: {listed(failed)}")


def predict(*asked: Any, **more: Any) -> Iterator[Path]:
    """Each path once it is written. Arguments and refusals: as `Prediction.of`, at once; as `outcomes`, at the end."""
    prediction = Prediction.of(*asked, **more)
    return (path for outcome in prediction.outcomes() for path in outcome.written)


def _is_there(request: Request, job: Job, to: Sequence[str]) -> bool:
    """Made before from the same, in the same way. Raises ValueError if something else lies there."""
    there = [file for file in map(request.output, to) if file.exists()]
    for file in there:
        if known_mark(file) != mark_of(request, job).partition(STANDING)[0]:
            raise ValueError(
                f"{file} exists, and is not of this scan, these weights and these settings; --overwrite replaces it, "
                "or name another OUTPUT"
            )
    return len(there) == len(to)


def _outcomes(due: list[Request], job: Job, to: Sequence[str]) -> Iterator[tuple[Request, Outcome]]:
    """Those that cannot fit at once, the others as they come."""
    card = weights_file.read_card(job.weights)
    own = sum(file.stat().st_size for file in weights_file.files(job.weights))
    free, free_on_gpu = footprint.free_here(), footprint.free_on_gpu()
    loads: list[Load[Request]] = []
    for request in due:
        if request.refused:
            yield request, Outcome(failure=request.refused)
            continue
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
            loads.append(Load(request, own + need, seconds))
    work = partial(segment_one, job=job, to=to)
    if scans_at_a_time() == 1 or len(loads) == 1:
        room = free - max((load.memory_bytes for load in loads), default=0)
        threads = footprint.threads(card, job.conditions, room)
        segmenter = Segmenter.load(job.weights, job.conditions, threads) if loads else None
        items = track((load.item for load in loads), len(loads), "predict")
        yield from ((item, work(item, segmenter=segmenter)) for item in items)
        return
    for item, outcome in within_memory.each(work, loads, LocalExecutor(free), "predict"):
        yield item, Outcome(failure=outcome.reason) if isinstance(outcome, Lost) else outcome


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


def segment_one(
    request: Request, job: Job, to: Sequence[str] = (NIFTI,), segmenter: Segmenter | None = None
) -> Outcome:
    """Read, segment and write one scan, or say why not: one bad scan must not stop the others."""
    start = time.monotonic()
    try:
        written, report = answer(request, job, to, segmenter)
        found = Outcome(report["warnings"], written=written, structures=report["structures"])
    except Exception as error:  # of any kind: it is told, counted, and the command ends with 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # a GPU that was too small for this scan may do for the next one
        if environment.debugging():
            log.exception("predict: %s", request.told_as)
        found = Outcome(failure=_reason(error))
    return replace(found, seconds=time.monotonic() - start)


def _reason(error: Exception) -> str:
    """In one line: torch adds its C++ trace."""
    told = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in told.lower():
        return f"does not fit in memory ({told or type(error).__name__}); crop it, or free memory"
    return told if isinstance(error, ValueError | OSError) and told else f"{type(error).__name__}: {told}"
