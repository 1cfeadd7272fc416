"""The worker processes: started, watched, replaced when they die; what they were at goes back into the queue."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.service import readiness, recovery
from pipelines.service.queue import Spool
from pipelines.service.serve_settings import ServeSettings

log = logging.getLogger(__name__)

LOOK_S = 0.2
PAUSES_S = (0.0, 1.0, 5.0, 30.0)  # before a worker is started again that died young
YOUNG_S = 30.0
TERM_S = 3.0
CANCELLED_EXIT = 70  # as job_worker.py, which imports torch, has it


@dataclass
class _Process:
    number: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    young_deaths: int = 0


class Workers:
    """`lock`: a descriptor that they inherit. `refusal`: why the service cannot begin, told to `on_refusal`: no version
    may answer, and none did since the start."""

    def __init__(self, spool: Spool, settings: ServeSettings, lock: int) -> None:
        self._spool, self._settings, self._lock = spool, settings, lock
        self._processes = [_Process(number) for number in range(settings.workers)]
        self._answered = False
        self.refusal = ""
        self.on_refusal: Callable[[], None] = lambda: None

    def run(self, over: threading.Event) -> None:
        """In one thread as long as the service lives: the workers are tethered to it."""
        try:
            while not over.wait(LOOK_S):
                for each in self._processes:
                    self._tend(each)
                self._look_for_refusal()
        finally:
            self._end()

    def _tend(self, each: _Process) -> None:
        now = time.monotonic()
        if each.process is not None and (code := each.process.poll()) is not None:
            each.process = None
            on_purpose = code == CANCELLED_EXIT
            self._settle(each.number, counted=not on_purpose)
            each.young_deaths = each.young_deaths + 1 if now - each.started < YOUNG_S and not on_purpose else 0
            each.due = now + PAUSES_S[min(each.young_deaths, len(PAUSES_S) - 1)]
            if not on_purpose:
                log.warning("worker %d ended (%d); another one follows", each.number, code)
        if each.process is None and now >= each.due:
            self._start(each)

    def _start(self, each: _Process) -> None:
        module = [sys.executable, "-m", "pipelines.service.job_worker", str(each.number)]
        each.process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.work.tether", *module], stdin=subprocess.PIPE, pass_fds=(self._lock,)
        )
        each.started = time.monotonic()
        with each.process.stdin as stdin:  # type: ignore[union-attr]
            stdin.write(self._settings.model_dump_json().encode())

    def _settle(self, number: int, counted: bool) -> None:
        for job in self._spool.running(number):
            recovery.settle(self._spool, job.id, counted)
        recovery.tell_untold(self._spool, number)

    def _look_for_refusal(self) -> None:
        if self._answered or self.refusal:
            return
        told = [readiness.told_by(self._spool.folder, each.number) for each in self._processes]
        self._answered = any(model for model, _ in told)
        problem = told[0][1]
        if not self._answered and problem != readiness.STARTING:
            self.refusal = problem
            self.on_refusal()

    def _end(self) -> None:
        living = [each for each in self._processes if each.process is not None]
        for each in living:
            each.process.terminate()  # type: ignore[union-attr]
        for each in living:
            assert each.process is not None
            try:
                each.process.wait(TERM_S)
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()
            self._settle(each.number, counted=False)
