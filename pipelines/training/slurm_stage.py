"""A training stage as a job of Slurm's: submitted, or found in the queue again; followed to its end; or cancelled.

What the job says is told as it comes. A request to stop (SIGTERM, Ctrl-C) cancels the job. If whoever started the
stage was killed, the job goes on, and the next start of the stage finds it by its name, which is the run's; if it has
ended meanwhile, its result lies there (finished.py).
"""

import codecs
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.training import finished, slurm, slurm_script
from pipelines.training.slurm import Look
from pipelines.training.wanted import Machines
from pipelines.work import environment, preemption, project
from pipelines.work.ancestry import Ancestors

log = logging.getLogger(__name__)

TELL_S = 0.5  # between looks at the job's log
LOOK_S, LOOK_RARELY_S = 2.0, 30.0  # at the queue: at first, and of a job that has been there for long
INTERRUPTED = 130  # a shell's exit code after Ctrl-C
HELD_S = 10  # that a requeued job waits: clocks of machines may differ so much


class SlurmStage:
    """`run`: the name of the run's folder."""

    def __init__(self, stage: str, run: str, asked: Machines) -> None:
        self.stage, self.run, self.asked = stage, run, asked
        self.ancestors = Ancestors()
        self.name = slurm_script.job_name(run)
        self.log = project.state_folder() / "jobs" / f"{run}.log"
        self.told: Look | None = Look("")
        self.ran = False
        self.own_lines: list[str] = []  # of the job's log that begin as a stage's errors do

    def see_through(self) -> None:
        """Returns when the result is where it belongs. Raises ValueError if there is none, with the job's reason."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            end = self._follow(self._attach() or self._submit())
        except (SystemExit, KeyboardInterrupt) as asked:
            if isinstance(asked, KeyboardInterrupt) or self.ancestors.all_there():
                slurm.cancel(self.name)
                log.info("%s: job %s is cancelled; the same command goes on from the checkpoint", self.stage, self.name)
            raise SystemExit(INTERRUPTED if isinstance(asked, KeyboardInterrupt) else asked.code) from None
        if not finished.take(self.stage, self.run, finished.SEEN_S if end.state == "COMPLETED" else 0.0):
            raise ValueError(self._failure(end))

    def _attach(self) -> str | None:
        while "COMPLETING" in (jobs := slurm.active(self.name)).values():
            time.sleep(LOOK_S)  # then it is gone, or queued again
        if not jobs:
            return None
        job = max(jobs, key=int)
        log.info("%s: Slurm has job %s of this run already; its log so far: %s", self.stage, job, self.log)
        return job

    def _submit(self) -> str:
        options = slurm_script.options(self.name, self.log, self.asked)
        seen = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_JOB", "SBATCH_"))}
        job = slurm.submit(options, slurm_script.script(self.stage, self.asked), seen)
        log.info("%s: job %s of Slurm's, %s, on %d machines", self.stage, job, self.name, self.asked.count)
        return job

    def _follow(self, job: str) -> Look:
        """Until the job is over: twice, since one that is queued again was over for a moment."""
        began, next_look, before = time.monotonic(), 0.0, None
        follower = LogFollower(self.log, self._tell)
        while True:
            follower.read()
            if time.monotonic() >= next_look:
                now = slurm.look(job)
                self._tell_state(job, now)
                if now and now.over and before and before.over:
                    follower.read()
                    return now
                before = now
                next_look = time.monotonic() + _patience(time.monotonic() - began, now)
            time.sleep(TELL_S)

    def _tell(self, line: str) -> None:
        if line.startswith(f"{self.stage}: "):
            self.own_lines.append(line)
        print(line, flush=True)

    def _tell_state(self, job: str, now: Look | None) -> None:
        """What changed. A job that was queued again is moved forward, once."""
        if now == self.told or (now and now.over):
            return
        self.told = now
        if now is None:
            log.info("%s: Slurm does not answer; job %s goes on without it", self.stage, job)
            return
        log.info("%s: job %s is %s%s", self.stage, job, now.state, f" ({now.reason})" if now.state == "PENDING" else "")
        self.ran |= now.state == "RUNNING"
        if self.ran and now.state == "PENDING" and now.reason == "BeginTime":
            slurm.hasten(job, HELD_S)

    def _failure(self, end: Look) -> str:
        again = "the same command goes on from the last checkpoint"
        if end.code == preemption.EXIT_CODE:
            return f"the job was asked to stop {environment.read().requeues + 1} times (MEDSEG_REQUEUES); {again}"
        last = self.own_lines[-1].removeprefix(f"{self.stage}: ") if self.own_lines and end.code == 1 else ""
        code = "" if end.code is None else f", exit code {end.code}"
        return f"{last or f'the job ended as {end.state}{code}'}; its log: {self.log}; {again}"


class LogFollower:
    """Tells a growing file line by line, from its present end on. It may not be there yet."""

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self.path, self.tell = path, tell
        self.at = path.stat().st_size if path.exists() else 0
        self.decoder, self.rest = codecs.getincrementaldecoder("utf-8")("replace"), ""

    def read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.at)
            block = file.read()
        self.at += len(block)
        *lines, self.rest = (self.rest + self.decoder.decode(block)).split("\n")
        for line in lines:
            self.tell(line)


def _patience(since_s: float, now: Look | None) -> float:
    """Until the next look. What is over, or silent, is looked at again soon."""
    if now is None or now.over:
        return LOOK_S
    return min(LOOK_RARELY_S, max(LOOK_S, since_s / 20))
