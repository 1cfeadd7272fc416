"""What a stage cost: GPU-hours and kWh, a line in the log and one in .medseg/costs.jsonl.

    with metered("train", log.info): ...

GPU-hours are those in which this machine's GPUs were held, used or not. Energy is measured where the machine lets
itself be measured: GPUs by their own meter (nvidia-smi, every 10 s), processors by theirs (RAPL, which on most machines
only root may read). What has no meter is an estimate and is called so: processor time at 5 W a core, which leaves out
memory, disks, fans and cooling.
"""

import json
import os
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.work import project

RAPL = Path("/sys/class/powercap")
WATTS_A_CORE = 5.0  # of a server's processor under load: 200-350 W over 48-64 cores; an assumption, not a measurement
SAMPLE_S = 10.0
TELL_FROM_S = 10.0  # what took less is not worth a line
ON_GPUS = ("train", "pretrain", "evaluate")


@dataclass
class StageCost:
    """Of one stage or several. `measured`: whether every kWh of it was; an estimate else."""

    stage: str
    seconds: float
    gpu_hours: float
    kwh: float
    measured: bool
    ended: float = 0.0

    def line(self) -> str:
        how = "measured" if self.measured else "estimated from processor time, GPUs measured if any"
        return f"{self.stage}: {self.gpu_hours:.2f} GPU-hours, {self.kwh:.2g} kWh ({how})"


@contextmanager
def metered(stage: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Costs are noted also if the stage fails: they arose."""
    gpus, started, used, energy = _Gpus(), time.monotonic(), _cpu_seconds(), _processors_joules()
    gpus.start()
    try:
        yield
    finally:
        seconds, joules = time.monotonic() - started, gpus.stop()
        now = _processors_joules()
        measured = energy is not None and now is not None and now >= energy
        joules += now - energy if measured else (_cpu_seconds() - used) * WATTS_A_CORE  # type: ignore[operator]
        held = gpus.count if stage in ON_GPUS else 0
        cost = StageCost(stage, seconds, held * seconds / 3600, joules / 3.6e6, measured, time.time())
        with suppress(OSError):  # a full disk is told by whoever needs it
            _note(cost)
        if seconds >= TELL_FROM_S:
            tell(cost.line())


def noted(since: float = 0.0) -> list[StageCost]:
    """All that ended after `since`, in seconds since 1970."""
    if not _file().is_file():
        return []
    found = []
    for line in _file().read_text().splitlines():
        with suppress(ValueError, TypeError):  # a line that a full disk cut
            found.append(StageCost(**json.loads(line)))
    return [cost for cost in found if cost.ended > since]


def total(costs: list[StageCost]) -> StageCost:
    return StageCost(
        "all stages",
        sum(cost.seconds for cost in costs),
        sum(cost.gpu_hours for cost in costs),
        sum(cost.kwh for cost in costs),
        all(cost.measured for cost in costs),
    )


def _file() -> Path:
    return project.state_folder() / "costs.jsonl"


def _note(cost: StageCost) -> None:
    with _file().open("a") as file:
        file.write(json.dumps(asdict(cost)) + "\n")


def _cpu_seconds() -> float:
    """Of the programs we started and that ended, and all that they started."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def _processors_joules() -> float | None:
    """The meters of all processors; None where there are none, or we may not read them."""
    try:
        packages = [each for each in RAPL.glob("*-rapl:*") if each.name.count(":") == 1]
        return sum(int((each / "energy_uj").read_text()) for each in packages) / 1e6 if packages else None
    except (OSError, ValueError):
        return None


class _Gpus:
    """Power of this machine's GPUs, added up by a thread. Nothing happens where there are none."""

    def __init__(self) -> None:
        self.count, self._joules, self._ended = 0, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._sample, name="power", daemon=True)

    def start(self) -> None:
        self.count = len(self._watts())
        if self.count:
            self._thread.start()

    def stop(self) -> float:
        self._ended.set()
        if self.count:
            self._thread.join()
        return self._joules

    def _sample(self) -> None:
        last = time.monotonic()
        while not self._ended.is_set():
            self._ended.wait(SAMPLE_S)
            now = time.monotonic()
            self._joules += sum(self._watts()) * (now - last)
            last = now

    def _watts(self) -> list[float]:
        if not shutil.which("nvidia-smi") or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
            return []
        command = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
        command += [f"--id={ids}"] if (ids := os.environ.get("CUDA_VISIBLE_DEVICES")) else []
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return []
        return [float(line) if line.strip().replace(".", "").isdigit() else 0.0 for line in ended.stdout.splitlines()]
