"""One lock around every use of DVC, so that two runs never meet: .medseg/lock.

The kernel's flock decides who holds it, so a killed holder frees it. The file's content only tells others what the
holder is doing; it is believed only while the flock is held.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from flows import processes
from pipelines.work import project

BRIEF_S = 30  # how long a holder may need that only asks for the status, or that died and is being cleaned up
INGEST_S = 1800  # one that takes in new scans; every hour, so that no night's training is to be left out for it


class BusyError(ValueError):
    """Another run holds the lock."""


@dataclass
class Lock:
    """The lock while we hold it. `fd` is handed to dvc, so that the lock is free only when dvc too is gone."""

    fd: int
    said: dict[str, Any] = field(default_factory=dict)

    def say(self, **doing: Any) -> None:
        """Tell others what we do; keys stay until they are said again."""
        self.said.update(doing, pid=os.getpid())
        text = json.dumps(self.said).encode()
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, text, 0)


_held: Lock | None = None


@contextmanager
def held(wait: bool = False, doing: str = "run") -> Iterator[Lock]:
    """Hold the lock; within a process it may be taken again inside itself.

    `wait`: until it is free. Raises BusyError, saying who holds it, when it is not free within a moment.
    """
    global _held
    if _held is not None:
        yield _held
        return
    with _opened("lock") as fd:
        _acquire(fd, wait, doing)
        project.keep_private()
        if mark := _said(fd).get("mark"):
            processes.end(mark)  # what a killed run may have left
        try:
            _held = Lock(fd)
            _held.say(doing=doing)
            yield _held
        finally:
            _held = None


@contextmanager
def shared(name: str, first: Callable[[], None]) -> Iterator[bool]:
    """Hold .medseg/NAME together with others for the block; gives whether nobody else held it at its start.

    If so, `first()` is called, and others wait for its end.
    """
    with _opened(name) as fd:
        if alone := _try(fd):
            first()
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield alone


@contextmanager
def claimed(name: str) -> Iterator[Lock | None]:
    """Another lock of this project, .medseg/NAME: held for the block, or None when someone else holds it."""
    with _opened(name) as fd:
        if not _try(fd):
            yield None
            return
        os.ftruncate(fd, 0)  # what the former holder said
        yield Lock(fd)


@contextmanager
def waited_for(name: str) -> Iterator[None]:
    """Hold .medseg/NAME for the block, however long others hold it before."""
    with _opened(name) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield


def holder(name: str = "lock") -> dict[str, Any] | None:
    """What the present holder says it does, or None when the lock is free."""
    with _opened(name) as fd:
        return None if _try(fd) else _said(fd)


def _acquire(fd: int, wait: bool, doing: str) -> None:
    started = time.monotonic()
    while not _try(fd):
        said, waited_s = _said(fd), time.monotonic() - started
        if not wait and waited_s > _patience_s(said, doing):
            stage = f", now in stage {said['stage']}" if said.get("stage") else ""
            raise BusyError(
                f"another run is busy in this project (process {said.get('pid', 'unknown')}{stage}); "
                "wait for it with --wait, or look with `medseg status`"
            )
        time.sleep(0.1)


def _patience_s(said: dict[str, Any], doing: str) -> float:
    if said.get("doing") == "status" or not _alive(said.get("pid")):
        return BRIEF_S
    return INGEST_S if said.get("doing") == "ingest" != doing else 1


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _said(fd: int) -> dict[str, Any]:
    try:
        said = json.loads(os.pread(fd, 1 << 20, 0))
    except ValueError:  # empty, or read while it is written
        return {}
    return said if isinstance(said, dict) else {}


def _alive(pid: Any) -> bool:
    return isinstance(pid, int) and psutil.pid_exists(pid)


@contextmanager
def _opened(name: str) -> Iterator[int]:
    fd = os.open(project.state_folder() / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)  # of an older version's, too: a reader's flock would stop every run
        yield fd
    finally:
        os.close(fd)
