"""Start a program so that nothing it starts can outlive us.

    with running([...], environment) as process: ...     # however the block is left, all of it is gone afterwards

Each program gets a session of its own and a mark in its environment, which every descendant inherits, ranks with
sessions of their own too. On any exit all that carry the mark get SIGTERM, and SIGKILL after a grace. SIGKILL of
ourselves runs no code: then the kernel's parent-death signal (pipelines/tether.py) ends the chain link by link, and
the next run looks for the mark and ends what is left.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

MARK = "MEDSEG_SESSION"


def new_mark() -> str:
    """A mark for one program; it begins with our own, so that ending us ends it too."""
    ours = os.environ.get(MARK)
    return f"{ours}/{uuid.uuid4().hex}" if ours else uuid.uuid4().hex


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    mark: str | None = None,
    grace_s: float = 10,
    keep_open: Sequence[int] = (),
    cwd: Path | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The program, tethered to the calling thread (call from the main one). Leaving the block ends it if it runs."""
    mark = mark or new_mark()
    try:
        yield subprocess.Popen(
            [sys.executable, "-m", "pipelines.tether", *command],
            env={**environment, MARK: mark},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=keep_open,
            start_new_session=True,
        )
    finally:
        end(mark, grace_s)


def end(mark: str, grace_s: float = 10) -> None:
    """SIGTERM to every process that carries `mark`, SIGKILL after `grace_s`; returns when all are gone.

    Raises TimeoutError if one survives SIGKILL for 10 s (it hangs inside the kernel, e.g. on a dead network disk).
    """
    for signum, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        deadline, told = time.monotonic() + patience_s, set[int]()
        while alive := members(mark):
            for pid in alive - told:
                with suppress(ProcessLookupError):
                    os.kill(pid, signum)
            told |= alive  # once each: a second SIGTERM would break into the clean-up that the first one began
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return
    raise TimeoutError(f"process {', '.join(map(str, sorted(members(mark))))} does not end, not even by SIGKILL")


def members(mark: str) -> set[int]:
    """Living processes that carry `mark` or one derived from it. Zombies have no environment left and do not count."""
    wanted, found = f"{MARK}={mark}".encode(), set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # gone meanwhile, or another user's
                for variable in (entry / "environ").read_bytes().split(b"\0"):
                    if variable == wanted or variable.startswith(wanted + b"/"):
                        found.add(int(entry.name))
    return found
