"""Servers and other programs that work for a command: tethered, with a log each in .medseg/logs."""

import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flows import processes
from pipelines.work import project

START_TIMEOUT_S = 120  # 2.5 s warm, 8 s when the database is new; slow disks take many times that


@contextmanager
def logged(
    name: str, command: list[str], extra: dict[str, str] | None = None, keep_open: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """The program for the block, `extra` on top of our environment. Secrets go there: others see command lines."""
    with (
        log_file(name).open("wb") as log,
        processes.running(
            command,
            {**os.environ, **(extra or {})},
            cwd=project.root(),
            grace_s=5,
            keep_open=keep_open,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        yield process


def wait_until_it_answers(
    address: str, name: str, process: subprocess.Popen[bytes] | None, patience_s: float = START_TIMEOUT_S
) -> None:
    """Raises ValueError if the process ends or the time is over before that."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            pass
        if process is not None and process.poll() is not None:
            raise ValueError(f"the {name} did not start: {last_line(name)}; see {log_file(name)}")
        if time.monotonic() > deadline:
            raise ValueError(f"the {name} does not answer at {address} within {patience_s:g} s")
        time.sleep(0.05)


def log_file(name: str) -> Path:
    folder = project.state_folder() / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.log"


def last_line(name: str) -> str:
    lines = [line for line in log_file(name).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
