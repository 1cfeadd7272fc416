"""Whether those who started this process are still there: a request to stop may come from them, or from their death.

A stage's parents are tethered (tether.py): when the command on top is killed, SIGTERM comes down to the stage, just as
when somebody cancels the run. What is done on a cluster shall end with the latter and outlive the former.
"""

import os
from contextlib import suppress

import psutil

from pipelines.work import environment


class Ancestors:
    """Those above the run that this process is a part of: who watches it. To be asked for at the start."""

    def __init__(self) -> None:
        own = os.environ.get(environment.SESSION)
        self.watching = [each for each in psutil.Process().parents() if own is None or _mark(each) != own]

    def all_there(self) -> bool:
        return all(map(_lives, self.watching))


def _mark(process: psutil.Process) -> str | None:
    """Empty for other users' processes, which are none of the run."""
    with suppress(psutil.Error, OSError):
        return process.environ().get(environment.SESSION)
    return ""


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
