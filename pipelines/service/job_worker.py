"""The process that answers: takes a job, segments its scans, publishes the results, takes the next.

Run     python -m pipelines.service.job_worker NUMBER < settings.json      tethered, in the project's folder

Which version answers is looked up as each job is taken: a champion that changes while jobs wait answers those that were
not taken yet, and each job names the one that it had. While there is none that may answer, jobs wait.
"""

import logging
import os
import shutil
import sys
import threading
import time
import warnings

from pipelines import params
from pipelines.release import registry, tracking
from pipelines.release.registry import NOT_RELEASED, RegisteredModel
from pipelines.service import readiness, recovery
from pipelines.service.job import DONE, FAILED, RUNNING, JobAnswer, ServiceJob
from pipelines.service.queue import Spool, spool_of
from pipelines.service.serve_settings import ServeSettings
from pipelines.work import devices, faults
from pipelines.work.garbage import uncollected

log = logging.getLogger(__name__)

IDLE_S, AWAY_S = 0.2, 5.0  # until the next look: for a job; for a version that may answer
TICK_S = 0.5  # between looks whether the job at work was cancelled
CANCELLED_EXIT = 70  # it left, as its job was cancelled or took too long; its successor is due at once


class Worker:
    def __init__(self, spool: Spool, settings: ServeSettings, number: int) -> None:
        with uncollected():
            from pipelines.service.scan_answers import ScanAnswers  # torch: after the device is chosen

        self._spool, self._settings, self._number = spool, settings, number
        self._answers = ScanAnswers(settings.unfamiliar)
        self._model = ""
        self._ending = threading.Lock()

    def run(self) -> None:
        while True:
            time.sleep(self.step())

    def step(self) -> float:
        """Answer a job, if one waits. Seconds until the next look."""
        if self._model and not self._spool.waits():
            return IDLE_S
        version = self._version()
        self._model = self._tell(version)
        if isinstance(version, str):
            return AWAY_S
        job = self._spool.take(self._number)
        if job is None:
            return IDLE_S
        self._answer(job, version)
        return 0.0

    def _version(self) -> RegisteredModel | str:
        """The one that answers now, its network loaded; or why there is none."""
        try:
            tracking.require_answer()
            version = may_answer(registry.find(model_of(self._settings)), self._settings)
            self._answers.load(version)
            return version
        except Exception as error:
            return told_as(error)

    def _tell(self, version: RegisteredModel | str) -> str:
        model, problem = ("", version) if isinstance(version, str) else (version.told, "")
        if (model, problem) != readiness.told_by(self._spool.folder, self._number):
            network = self._answers.network() if model else None
            readiness.tell(self._spool.folder, self._number, model, problem, network)
            log.log(logging.WARNING if problem else logging.INFO, "worker %d: %s", self._number, problem or model)
        return model

    def _answer(self, job: ServiceJob, version: RegisteredModel) -> None:
        with _Watch(self._spool, job, self._settings, self._ending):
            try:
                if job.ask.model:
                    version = may_answer(registry.find(job.ask.model), self._settings)
                self._spool.progress(job.id, 0.0, version.told)
                folder = self._spool.working(job.id)
                answer, state, reason = self._answers.answer(self._spool, job, version, folder)
            except Exception as error:  # ours, or the version's; what is wrong with a scan was told in `answer`
                log.exception("worker %d: job %s failed", self._number, job.id)
                answer, state, reason = JobAnswer(), FAILED, told_as(error)
            with self._ending:
                self._end(job, version, answer, state, reason)

    def _end(self, job: ServiceJob, version: RegisteredModel, answer: JobAnswer, state: str, reason: str) -> None:
        folder = self._spool.folder / "working" / job.id
        if state == DONE:
            ended = self._spool.done(job.id, folder, answer)
        else:
            ended = self._spool.ended(job.id, state, reason)
            shutil.rmtree(folder, ignore_errors=True)
        if not self._settings.keep_inputs:
            shutil.rmtree(self._spool.inputs(job.id), ignore_errors=True)
        if ended:
            recovery.tell(job, state, answer, version.record_sha256)


class _Watch:
    """While a job is at work: leaves the process if it was cancelled, or takes too long. Native code cannot be asked
    to end, and a successor loads its network within seconds."""

    def __init__(self, spool: Spool, job: ServiceJob, settings: ServeSettings, ending: threading.Lock) -> None:
        self._spool, self._job, self._limit_s, self._ending = spool, job, settings.limits.job_s, ending
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        deadline = time.monotonic() + self._limit_s
        while not self._over.wait(TICK_S):
            late = time.monotonic() > deadline
            if not late and self._spool.job(self._job.id).state == RUNNING:
                continue
            with self._ending:
                if self._over.is_set():
                    return
                if late:
                    reason = f"takes more than {self._limit_s:g} s (limits.job_s); send fewer or smaller scans"
                    self._spool.ended(self._job.id, FAILED, reason)
                os._exit(CANCELLED_EXIT)


def model_of(settings: ServeSettings) -> str:
    """The version that the service has, as registry.find takes it."""
    if settings.model:
        return settings.model
    name = params.load().register_.name
    return f"models:/{name}@candidate" if settings.unreleased else f"models:/{registry.released_name(name)}@champion"


def may_answer(version: RegisteredModel, settings: ServeSettings) -> RegisteredModel:
    """Raises ValueError unless it is released, or need not be."""
    if not version.standing.released and not settings.unreleased:
        raise ValueError(
            f"{version.told}; release it (docs/release.md), or serve it as what it is by --unreleased: "
            f'"{NOT_RELEASED}" is then on everything'
        )
    return version


def told_as(error: Exception) -> str:
    return faults.told(error) or f"{type(error).__name__} in the service; its log says more"


def main() -> None:
    settings = ServeSettings.model_validate_json(sys.stdin.read())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger(__name__).setLevel(logging.INFO)
    warnings.simplefilter("ignore")  # libraries' quote values of headers
    devices.choose(settings.device or None)
    number = int(sys.argv[1])
    spool = spool_of(settings)
    try:
        worker = Worker(spool, settings, number)
    except Exception as error:
        readiness.tell(spool.folder, number, problem=told_as(error))
        raise
    worker.run()


if __name__ == "__main__":
    main()
