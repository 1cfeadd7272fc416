"""A job's scans to the files of its answer: what a worker does, with torch."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from model import weights_file
from pipelines.cases.preparation import Preprocessing
from pipelines.release.registry import RegisteredModel
from pipelines.service.job import DONE, FAILED, REFUSED, JobAnswer, ResultFile, ServiceJob
from pipelines.service.queue import Spool
from pipelines.service.readiness import NetworkTold
from pipelines.serving.answering import Job, answer, checked
from pipelines.serving.asked import VIEW, Request
from pipelines.serving.requests import requests
from pipelines.serving.segmenter import cached_segmenter
from pipelines.work import faults, progress

log = logging.getLogger(__name__)

LOADED = 0.05  # progress once the scans are read
Ended = tuple[JobAnswer, str, str]  # with state and reason


class ScanAnswers:
    """Keeps the last version's network. `unfamiliar`: as `Job.of` takes it."""

    def __init__(self, unfamiliar: str) -> None:
        self._unfamiliar = unfamiliar
        self._job: Job | None = None

    def load(self, version: RegisteredModel) -> Job:
        """Raises ValueError if its weights are not to be had or are not as registered."""
        if self._job is None or self._job.version.record_sha256 != version.record_sha256:
            self._job = None
            self._job = Job.of(version, unfamiliar=self._unfamiliar)
            cached_segmenter(self._job.weights, self._job.conditions)
        self._job = replace(self._job, version=version)  # its standing may have changed
        return self._job

    def network(self) -> NetworkTold | None:
        """Of the version that was loaded."""
        if self._job is None:
            return None
        card = weights_file.read_card(self._job.weights)
        structures = {name: card.structures[name] for name in card.classes}
        modalities = Preprocessing.from_json(card.preprocessing).modalities
        return NetworkTold(self._job.version.name, structures, list(modalities))

    def answer(self, spool: Spool, asked: ServiceJob, version: RegisteredModel, folder: Path) -> Ended:
        """`folder`: empty, for the files. What is wrong with a scan is told of it; the others are answered."""
        job = replace(self.load(version), modality=asked.ask.modality or None)
        inputs = spool.inputs(asked.id)
        with TemporaryDirectory(prefix=f"{asked.id}-", dir=folder.parent) as scratch:
            try:
                due = requests(_source(inputs), folder, Path(scratch), job.modality)
                to = checked(asked.ask.to, due)
            except (ValueError, OSError) as error:
                return JobAnswer(), REFUSED, _plain(str(error), inputs)
            results: list[ResultFile] = []
            warnings: list[tuple[str, str]] = []
            refused: list[tuple[str, str]] = []
            failed = False
            for number, request in enumerate(due):
                begin, end = (LOADED + (1 - LOADED) * place / len(due) for place in (number, number + 1))
                spool.progress(asked.id, begin)
                name = _name(request, folder)
                try:
                    if request.refused:
                        raise ValueError(request.refused)
                    with progress.heard(partial(_progress, spool, asked.id, begin, end)):
                        _, report = answer(request, job, [*to, VIEW])
                    warnings += [(name, _plain(note, inputs)) for note in report["warnings"]]
                    results += _files(request, name, folder, report["outputs"])
                except Exception as error:
                    told = faults.told(error)
                    failed |= told is None or not isinstance(error, ValueError | OSError)
                    if told is None:
                        log.exception("job %s: a scan failed", asked.id)
                    refused.append((name, _plain(told or f"{type(error).__name__} in the service", inputs)))
        made = JobAnswer({**version.to_json(), "told": version.told}, tuple(results), tuple(warnings), tuple(refused))
        state = DONE if results else FAILED if failed else REFUSED
        return made, state, "" if results else "; ".join(dict.fromkeys(reason for _, reason in refused))


def _progress(spool: Spool, job_id: str, begin: float, end: float, share: float) -> None:
    spool.progress(job_id, begin + (end - begin) * share)


def _source(inputs: Path) -> Path:
    """A single file itself, which may be a zip."""
    files = list(inputs.iterdir())
    return files[0] if len(files) == 1 and files[0].is_file() else inputs


def _name(request: Request, folder: Path) -> str:
    """Of a scan: where its label map would lie, without ending."""
    return request.target.relative_to(folder).as_posix().removesuffix(".nii.gz")


def _files(request: Request, name: str, folder: Path, outputs: dict[str, str]) -> Iterator[ResultFile]:
    for kind, sha256 in outputs.items():
        path = request.output(kind)
        yield ResultFile(name, kind, path.relative_to(folder).as_posix(), path.stat().st_size, sha256)


def _plain(text: str, inputs: Path) -> str:
    """Without our folders."""
    return text.replace(f"{inputs}/", "").replace(str(inputs), "the upload")
