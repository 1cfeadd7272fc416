"""The running service as those see it who use it: a token, a scan that the network takes, a folder for files."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.pipelines.service.service_process import ServiceProcess, answered


@dataclass(frozen=True)
class Standing:
    """`client`: with a token. `folder`: for files of tests; `scan`: one that the network takes."""

    service: ServiceProcess
    client: httpx.Client
    folder: Path
    scan: Path

    @property
    def token(self) -> str:
        return self.service.tokens["tester"]

    def answered(self, to: str = "nifti,json") -> dict[str, Any]:
        """The scan's job, once it is done."""
        sent = self.client.post("/segmentations", params={"to": to}, content=self.scan.read_bytes())
        return answered(self.client, sent.raise_for_status().json()["id"])

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Its worker stands still."""
        worker = json.loads((self.service.root / ".medseg/serve/worker-0.json").read_text())["pid"]
        os.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(worker, signal.SIGCONT)


def body() -> np.ndarray:
    """In air, HU; no side of it is like another."""
    i, j, k = np.meshgrid(*map(np.arange, (40, 36, 24)), indexing="ij")
    inside = ((i - 20) / 17) ** 2 + ((j - 18) / 14) ** 2 < 1
    return np.where(inside, 40 + 60 * np.sin(i / 4) * np.cos(j / 5) + 4 * k, -1000).astype(np.int16)
