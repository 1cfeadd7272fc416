"""Start a program so that nothing it starts can outlive us.

    with running([...], environment) as process: ...     # however the block is left, all of it is gone afterwards

Each program gets a session of its own and a mark in its environment, which every descendant inherits, ranks with
sessions of their own too. On any exit all that carry the mark get SIGTERM, and SIGKILL after a grace.

SIGKILL of ourselves runs no code of ours. Then the kernel's parent-death signal (pipelines/work/tether.py) ends the
chain link by link, and a guardian, a small process that only waits for our end, makes sure of it: a link may hang, or
be a program that knows nothing of tethers.
"""

import atexit
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
TETHER_S = 3  # what the chain of tethers gets before the guardian steps in; it needs well under a second
# Derived from the mark that we carry ourselves, if any, and not carried by us: ending all of it leaves us alone.
_own = "/".join(filter(None, (os.environ.get(MARK), uuid.uuid4().hex)))
_guardian: subprocess.Popen[bytes] | None = None


def new_mark() -> str:
    """A mark for one program; it begins with our own, so that whoever ends us ends it too."""
    return f"{_own}/{uuid.uuid4().hex}"


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
    _call_guardian()
    mark, process = mark or new_mark(), None
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.work.tether", *command],
            env={**environment, MARK: mark},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=keep_open,
            start_new_session=True,
        )
        yield process
    finally:
        end(mark, grace_s)
        if process is not None:
            with process:  # closes its pipes
                pass


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


def _call_guardian() -> None:
    """Start the guardian, once. It holds the reading end of a pipe whose writing end ends with us, however we end."""
    global _guardian
    if _guardian is None:
        unmarked = {name: value for name, value in os.environ.items() if name != MARK}
        _guardian = subprocess.Popen(
            [sys.executable, "-m", "flows.processes", _own],
            env=unmarked,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(_dismiss, _guardian)


def _dismiss(guardian: subprocess.Popen[bytes]) -> None:
    """Let it see our end a moment early, so that it is gone before we are."""
    with guardian:
        pass


def _guard(mark: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.buffer.read()  # returns when the process that called us is gone
    deadline = time.monotonic() + TETHER_S
    while members(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    end(mark, grace_s=5)


if __name__ == "__main__":
    _guard(sys.argv[1])
