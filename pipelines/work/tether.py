"""Tie a process to its parent, so that killing the top of a run leaves nothing behind.

    tether()                               first thing in a stage: SIGTERM when the parent dies, and SIGTERM cleans up
    python -m pipelines.work.tether COMMAND...  the same for a program that is not ours (dvc, a server)

A run is a chain `medseg` > dvc > stage > torchrun > ranks. DVC ignores SIGINT while a stage runs and leaves the stage
alive when it is killed itself; the kernel's parent-death signal (Linux prctl) closes that gap at every link. It is
asked for within milliseconds of a program's start; it survives exec and belongs to the thread that started the child.
"""

import ctypes
import os
import signal
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1


def tether() -> None:
    """Ask for SIGTERM when the parent dies, and turn SIGTERM into SystemExit so that `finally` blocks run."""
    signal.signal(signal.SIGTERM, _leave)
    _die_with_parent()


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _leave(signum: int, _frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)  # a second one, from another link of the chain, must not break the clean-up
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    _die_with_parent()
    os.execvp(sys.argv[1], sys.argv[1:])
