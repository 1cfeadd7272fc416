"""A service that no test ends, shared by those that look at what people see and clients send."""

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
import pytest

from pipelines.release import tracking
from tests.conftest import save
from tests.pipelines.service.served import Served, answered, make_project, served


@dataclass(frozen=True)
class Standing:
    """`client`: with a token. `folder`: for files of tests; `scan`: one that the network takes."""

    service: Served
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


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    root, folder = tmp_path_factory.mktemp("standing"), tmp_path_factory.mktemp("sent")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(tracking.VARIABLE, raising=False)
        patch.chdir(root)
        make_project(root)
        with served(root) as service:
            service.ready()
            patch.undo()
            with service.client("tester") as client:
                yield Standing(service, client, folder, save(folder / "scan.nii.gz", body()))


def body() -> np.ndarray:
    """In air, HU; no side of it is like another."""
    i, j, k = np.meshgrid(*map(np.arange, (40, 36, 24)), indexing="ij")
    inside = ((i - 20) / 17) ** 2 + ((j - 18) / 14) ** 2 < 1
    return np.where(inside, 40 + 60 * np.sin(i / 4) * np.cos(j / 5) + 4 * k, -1000).astype(np.int16)
