"""The queue: what was accepted, who takes it, what came of it. Each accepted job is answered exactly once.

    folder = spool.arriving("ward-3")                      put the files there
    id = spool.accept(folder, Ask(("dicom-seg",)), "ward-3")
    spool.job(id), spool.jobs("ward-3"), spool.cancel(id), spool.results(id)

    FOLDER/arriving/   uploads that are not accepted yet, gone at the next start
    FOLDER/inputs/ID   what a job is about           FOLDER/results/ID   its answer, whole
    FOLDER/working/ID  an answer in the making       FOLDER/jobs.db      one row a job

A state changes only in a transaction that demands the state before. A job is accepted once its row is there, which is
after its files; and done once its results have their name, which is before its row says so. So whatever a kill leaves
is known for what it is at the next start (`recover`).
"""

import os
import secrets
import shutil
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, case, func, insert, select, update

from pipelines.service.job import (
    CANCELLED,
    DONE,
    FAILED,
    OPEN,
    QUEUED,
    RUNNING,
    UNDELIVERED,
    WAITING,
    Ask,
    JobAnswer,
    ServiceJob,
)
from pipelines.service.job_table import Database, jobs
from pipelines.service.serve_settings import ServeSettings
from pipelines.work import project

ANSWER = "answer.json"  # in a folder of results: JobAnswer
ATTEMPTS = 3  # workers that a job may kill


_OLDEST = select(jobs.c.id).where(jobs.c.state == QUEUED).order_by(jobs.c.number).limit(1)


class QueueFullError(Exception):
    """HTTP 429. The message names the bound; `retry_s`: when it is worth another try."""

    def __init__(self, told: str, retry_s: int) -> None:
        super().__init__(told)
        self.retry_s = retry_s


@dataclass(frozen=True)
class Bounds:
    """Of jobs that are not answered yet: of all senders, and of one."""

    queue: int = 1000
    per_sender: int = 100


class Spool:
    """`folder`: on one disk, for its owner alone. Many processes may have one; `recover` is for the service alone."""

    def __init__(self, folder: Path, database: str = "", bounds: Bounds | None = None) -> None:
        self.folder, self.bounds = folder, bounds or Bounds()
        for name in ("", "arriving", "inputs", "working", "results"):
            (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.database = Database(database, folder)

    def arriving(self, sender: str, limit: int | None = None) -> Path:
        """A folder for one upload, of the caller's until it is accepted; else the caller removes it, or the next
        start does. Raises QueueFullError if a job could not be accepted anyway."""
        with self.database.reading() as connection:
            self._check_room(connection, sender, limit)
        folder = self.folder / "arriving" / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        return folder

    def accept(self, folder: Path, ask: Ask, sender: str, key: str = "", limit: int | None = None) -> str:
        """The id of the job. `folder`, from `arriving`, is the queue's from here on, whatever happens. `key`: what was
        accepted from this sender under it before is that job, whatever its state. `limit`: this sender's own bound.

        Raises QueueFullError.
        """
        job_id = uuid.uuid4().hex
        inputs = self.inputs(job_id)
        try:
            size = _sync(folder)
            folder.rename(inputs)
            _sync_folder(inputs.parent)
            with self.database.writing() as connection:
                known = self._known(connection, sender, key)
                if known is None:
                    self._check_room(connection, sender, limit)
                    row = {"id": job_id, "state": QUEUED, "sender": sender, "key": key or None, "bytes": size}
                    connection.execute(insert(jobs).values(**row, ask=ask.to_json(), asked_at=time.time()))
        except BaseException:
            _remove(folder, inputs)
            raise
        if known is not None:
            _remove(inputs)
        return known or job_id

    def known(self, sender: str, key: str) -> str | None:
        """The job that this sender was given for this key."""
        with self.database.reading() as connection:
            return self._known(connection, sender, key)

    def job(self, job_id: str) -> ServiceJob:
        """Raises KeyError."""
        with self.database.reading() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
            if row is None:
                raise KeyError(job_id)
            before = (jobs.c.number < row["number"], jobs.c.state == QUEUED)
            ahead = _count(connection, *before) if row["state"] == QUEUED else None
            return _job(row, ahead)

    def jobs(self, sender: str, most: int = 100) -> list[ServiceJob]:
        """Its latest, newest first."""
        with self.database.reading() as connection:
            chosen = select(jobs).where(jobs.c.sender == sender).order_by(jobs.c.number.desc()).limit(most)
            return [_job(row) for row in connection.execute(chosen).mappings()]

    def cancel(self, job_id: str) -> bool:
        """False if it was answered before, or there is none. Whoever works on it notices (job_worker.py)."""
        cancelled = self._change(job_id, OPEN, state=CANCELLED, ended_at=time.time())
        if cancelled:
            _remove(self.inputs(job_id))
        return cancelled

    def inputs(self, job_id: str) -> Path:
        return self.folder / "inputs" / job_id

    def results(self, job_id: str) -> Path:
        """The folder that the files of its answer lie in. Raises KeyError if there is none (any more)."""
        folder = self.folder / "results" / job_id
        if self.job(job_id).state != DONE or not folder.is_dir():
            raise KeyError(job_id)
        return folder

    def waits(self) -> bool:
        """Is there a job to take?"""
        with self.database.reading() as connection:
            return connection.execute(_OLDEST).scalar() is not None

    def take(self, worker: int = 0) -> ServiceJob | None:
        """The oldest that waits, now running, if any."""
        with self.database.writing() as connection:
            job_id = connection.execute(_OLDEST).scalar()
            if job_id is None:
                return None
            now = {"state": RUNNING, "taken_at": time.time(), "worker": worker}
            chosen = update(jobs).where(jobs.c.id == job_id, jobs.c.state == QUEUED)
            connection.execute(chosen.values(**now, progress=0.0, attempts=jobs.c.attempts + 1))
        return self.job(job_id)

    def progress(self, job_id: str, share: float, model: str | None = None) -> bool:
        """False if the job is not running any more: it was cancelled."""
        told = {} if model is None else {"model": model}
        return self._change(job_id, (RUNNING,), progress=share, **told)

    def working(self, job_id: str) -> Path:
        """An empty folder for its answer."""
        folder = self.folder / "working" / job_id
        _remove(folder)
        folder.mkdir(mode=0o700)
        return folder

    def done(self, job_id: str, folder: Path, answer: JobAnswer) -> bool:
        """`folder`, from `working`, holds the files of the answer. False if it was cancelled, and they are gone."""
        (folder / ANSWER).write_text(answer.to_json())
        _sync(folder)
        results = self.folder / "results" / job_id
        folder.rename(results)
        _sync_folder(results.parent)
        return self.publish(job_id, answer)

    def publish(self, job_id: str, answer: JobAnswer) -> bool:
        """Results that have their name: the job is done, unless it was cancelled."""
        ask = self.job(job_id).ask
        published = self._change(
            job_id, (RUNNING,), state=DONE, ended_at=time.time(), progress=1.0, answer=answer.to_json(),
            model=str(answer.version.get("told", "")), delivery=WAITING if ask.deliver else "",
        )  # fmt: skip
        if not published and self.job(job_id).state != DONE:
            _remove(self.folder / "results" / job_id)
        return published

    def ended(self, job_id: str, state: str, reason: str) -> bool:
        """`state`: FAILED or REFUSED. False if it was cancelled."""
        return self._change(job_id, (RUNNING,), state=state, reason=reason, ended_at=time.time())

    def put_back(self, job_id: str, counted: bool = True) -> None:
        """Not answered: back in its old place. `counted`: its worker died of it, perhaps, and the third time it
        failed."""
        with self.database.writing() as connection:
            running = update(jobs).where(jobs.c.id == job_id, jobs.c.state == RUNNING)
            if counted:
                reason = f"its worker died {ATTEMPTS} times; too large for this machine's memory, or damaged"
                ending = {"state": FAILED, "reason": reason, "ended_at": time.time()}
                connection.execute(running.where(jobs.c.attempts >= ATTEMPTS).values(**ending))
            tries = jobs.c.attempts if counted else jobs.c.attempts - 1
            connection.execute(running.values(state=QUEUED, progress=0.0, model="", attempts=tries))

    def running(self, worker: int | None = None) -> list[ServiceJob]:
        """All, or those of one worker."""
        own = () if worker is None else (jobs.c.worker == worker,)
        with self.database.reading() as connection:
            chosen = select(jobs).where(jobs.c.state == RUNNING, *own)
            return [_job(row) for row in connection.execute(chosen).mappings()]

    def counts(self) -> dict[str, int]:
        """Of jobs, by state."""
        with self.database.reading() as connection:
            chosen = select(jobs.c.state, func.count()).group_by(jobs.c.state)
            return {state: int(count) for state, count in connection.execute(chosen)}

    def figures(self) -> dict[str, float]:
        """When the `oldest` that waits was asked for; deliveries; seconds of work and bytes of all."""
        delivery = jobs.c.delivery
        chosen = select(
            func.min(case((jobs.c.state == QUEUED, jobs.c.asked_at))).label("oldest"),
            func.sum(case((delivery == WAITING, 1), else_=0)).label("waiting"),
            func.sum(case((delivery == UNDELIVERED, 1), else_=0)).label("undelivered"),
            func.sum(jobs.c.ended_at - jobs.c.taken_at).label("seconds"),
            func.sum(jobs.c.bytes).label("bytes"),
        )
        with self.database.reading() as connection:
            return {name: float(value or 0) for name, value in connection.execute(chosen).mappings().one().items()}

    def _change(self, job_id: str, before: Collection[str], **values: Any) -> bool:
        with self.database.writing() as connection:
            chosen = update(jobs).where(jobs.c.id == job_id, jobs.c.state.in_(before))
            return connection.execute(chosen.values(**values)).rowcount == 1

    def _known(self, connection: Connection, sender: str, key: str) -> str | None:
        chosen = select(jobs.c.id).where(jobs.c.sender == sender, jobs.c.key == (key or None))
        return connection.execute(chosen).scalar() if key else None

    def _check_room(self, connection: Connection, sender: str, limit: int | None) -> None:
        bounds = {"": self.bounds.queue, sender: self.bounds.per_sender if limit is None else limit}
        for whose, bound in bounds.items():
            own = (jobs.c.sender == whose,) if whose else ()
            count = _count(connection, jobs.c.state.in_(OPEN), *own)
            if count >= bound:
                told = f"{count} jobs {'of yours ' if whose else ''}are waiting, at most {bound} may; try again later"
                raise QueueFullError(told, retry_s=min(300, 5 + count))


def spool_of(settings: ServeSettings) -> Spool:
    """The project's, for any of its processes."""
    bounds = Bounds(settings.limits.queue, settings.limits.per_token)
    return Spool(project.state_folder() / "serve", settings.database, bounds)


def _count(connection: Connection, *where: Any) -> int:
    return int(connection.execute(select(func.count()).select_from(jobs).where(*where)).scalar_one())


def _job(row: Any, ahead: int | None = None) -> ServiceJob:
    plain = {name: row[name] for name in ServiceJob.__dataclass_fields__ if name not in ("ask", "answer", "ahead")}
    return ServiceJob(ask=Ask.from_json(row["ask"]), answer=JobAnswer.from_json(row["answer"]), ahead=ahead, **plain)


def _sync(folder: Path) -> int:
    """See all of its files onto the disk; their bytes."""
    total = 0
    for path in [*folder.rglob("*"), folder]:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
            total += 0 if path.is_dir() else os.fstat(fd).st_size
        finally:
            os.close(fd)
    return total


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
