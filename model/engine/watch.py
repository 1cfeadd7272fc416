"""What may come from outside while a run trains: a request to stop, a request for a profile, a hang.

SIGTERM, SIGUSR1   finish the step, save, leave with exit code PREEMPTED: the launcher may queue the run again
SIGUSR2            write a profiler trace of the next steps
hang               no step for `hang_s` seconds: every rank writes its stacks to a file and ends
"""

from __future__ import annotations

import faulthandler
import logging
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

import torch
from torch.profiler import ProfilerActivity, profile

log = logging.getLogger(__name__)

PREEMPTED = 75  # sysexits.h: temporary failure, try again
PROFILED_STEPS = 3
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Watch:
    """Of one rank. `beat()` once a step; `stop` and `profile` say what was asked for."""

    def __init__(self, folder: Path, rank: int, hang_s: float = 1800.0) -> None:
        self.folder, self.rank, self.hang_s = folder, rank, hang_s
        self.stop = self.profile = False
        self.stacks: IO[str] | None = None
        self.profiler: profile | None = None
        self.profiled = 0

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        before = {signum: signal.signal(signum, self._asked_to_stop) for signum in STOP_SIGNALS}
        before[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, self._asked_to_profile)
        with (self.folder / f"stacks-rank-{self.rank}.txt").open("w") as self.stacks:
            try:
                self.beat()
                yield self
            except Exception:
                if any(stacks.stat().st_size for stacks in self.folder.glob("stacks-*")):
                    traceback.print_exc(file=self.stacks)  # another rank hung, and ended while this one waited for it
                raise
            finally:
                faulthandler.cancel_dump_traceback_later()
                for signum, handler in before.items():
                    signal.signal(signum, handler)

    def beat(self) -> None:
        """Not hanging. The timer is a thread of the interpreter itself: it works while Python code cannot run."""
        assert self.stacks is not None
        faulthandler.dump_traceback_later(self.hang_s, exit=True, file=self.stacks)

    def profile_step(self, asked: bool, step: int) -> None:
        """Called by all ranks after each step; `asked` by any of them starts a trace of the next steps."""
        if self.profiler:
            self.profiled += 1
            if self.profiled == PROFILED_STEPS:
                self.profiler.stop()
                path = self.folder / f"trace-step-{step:07d}-rank-{self.rank}.json"
                self.profiler.export_chrome_trace(str(path))
                log.info("profile of %d steps in %s (open it in ui.perfetto.dev)", PROFILED_STEPS, path)
                self.profiler = None
        elif asked:
            self.profile, self.profiled = False, 0
            cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self.profiler = profile(activities=[ProfilerActivity.CPU, *cuda])
            self.profiler.start()

    def _asked_to_stop(self, _signum: int, _frame: FrameType | None) -> None:
        self.stop = True

    def _asked_to_profile(self, _signum: int, _frame: FrameType | None) -> None:
        self.profile = True
