"""`medseg serve` as a process of its own, to be talked to by many and killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from pipelines.release import tracking
from pipelines.service.access import tokens_of
from tests.conftest import REPOSITORY, save

PATIENCE_S = 900
# Clients get verify=False, since all is plain HTTP: authorities take each 30 ms of CPU time to read.


def scan(path: Path, seed: int = 0, size: int = 12) -> Path:
    array = np.random.default_rng(seed).integers(-900, 1000, (size, size, size)).astype(np.int16)
    return save(path, array, np.diag([2.0, 2.0, 2.0, 1.0]))


@dataclass
class ServiceProcess:
    root: Path
    options: tuple[str, ...] = ("--unreleased", "--model", "models:/m/1")
    process: subprocess.Popen[bytes] | None = None
    address: str = ""
    tokens: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        log = self.root / "serve.log"
        begun = log.stat().st_size if log.exists() else 0
        command = [sys.executable, "-m", "flows.commands.medseg", "serve", "--port", self._port(), *self.options]
        environment = {name: value for name, value in os.environ.items() if name != tracking.VARIABLE}
        environment |= {"PYTHONPATH": str(REPOSITORY), "MEDSEG_WORKERS": "1"}
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, cwd=self.root, env=environment, stdout=out, stderr=out)
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(r"Serving at (\S+);", log.read_bytes()[begun:].decode())):
            assert self.process.poll() is None and time.monotonic() < deadline, log.read_text()  # noqa: PT018
            time.sleep(0.05)
        self.address = found[1]

    def _port(self) -> str:
        """The same at each start."""
        return self.address.rpartition(":")[2] or "0"

    def ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while httpx.get(f"{self.address}/ready", verify=False).status_code != 200:
            assert time.monotonic() < deadline, (self.root / "serve.log").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def token(self, name: str, limit: int | None = None) -> str:
        return self.tokens.setdefault(name, tokens_of(self.root / ".medseg/serve").add(name, limit))

    def client(self, name: str = "alice") -> httpx.Client:
        if name not in self.tokens:
            self.token(name)
        return httpx.Client(
            base_url=self.address, headers={"Authorization": f"Bearer {self.tokens[name]}"}, timeout=PATIENCE_S,
            verify=False,
        )  # fmt: skip


@contextmanager
def serving(root: Path, *options: str) -> Iterator[ServiceProcess]:
    service = ServiceProcess(root, options) if options else ServiceProcess(root)
    service.start()
    try:
        yield service
    finally:
        service.end()


def answered(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job once it is over."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        told: dict[str, Any] = client.get(f"/segmentations/{job_id}").raise_for_status().json()
        if told["state"] not in ("queued", "running"):
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
