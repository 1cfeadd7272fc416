"""The real service over a small registered version, for tests of what people see and clients send."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from pipelines.release import record, registration, tracking
from pipelines.service.access import tokens_of
from pipelines.serving.conditions import Conditions
from pipelines.work import project
from pipelines.work.writing import write_json
from tests.conftest import save
from tests.pipelines.release import evaluated

START_S, ANSWER_S = 180, 120  # the machine may be busy with other tests
SERVE = "from pipelines.service import running, settings; running.serve(settings.load({changes}), print)"


@dataclass(frozen=True)
class Served:
    """`folder`: for files of tests; `scan`: one that the network takes."""

    url: str
    token: str
    project: Path
    folder: Path
    scan: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}/{path}", headers=self.headers, timeout=60).raise_for_status()

    def answered(self, to: str = "nifti,json") -> dict[str, Any]:
        """The job of the scan, once it is done."""
        sent = httpx.post(
            f"{self.url}/segmentations", params={"to": to}, headers=self.headers, content=self.scan.read_bytes()
        )
        path = f"segmentations/{sent.raise_for_status().json()['id']}"
        until = time.monotonic() + ANSWER_S
        while (job := self.get(path).json())["state"] in ("queued", "running"):
            assert time.monotonic() < until
            time.sleep(0.1)
        assert job["state"] == "done"
        return dict(job)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Its worker stands still."""
        worker = json.loads((self.project / ".medseg/serve/worker-0.json").read_text())["pid"]
        os.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(worker, signal.SIGCONT)


@contextmanager
def served(root: Path) -> Iterator[Served]:
    """Of a new project in `root`; nothing of it is released."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(tracking.VARIABLE, raising=False)
        patch.setenv("MEDSEG_WORKERS", "1")
        (root / "project").mkdir()
        patch.chdir(root / "project")
        register()
        token = tokens_of(project.state_folder() / "serve").add("tester")
        save(root / "scan.nii.gz", scan())
        with running(root / "project", {"model": "models:/m/1", "unreleased": True, "port": 0}) as url:
            yield Served(url, token, root / "project", root, root / "scan.nii.gz")


def register() -> None:
    evaluated.make(Path.cwd())
    metrics = Path(project.EVALUATION) / "metrics.json"
    told = json.loads(metrics.read_text())
    write_json(metrics, {**told, "conditions": Conditions.of_here(0.5).to_json()})
    write_json(Path(record.FILE), record.make("m", Path(project.TRAINED), Path(project.EVALUATION)))
    assert registration.make_version() == "1"


def scan() -> np.ndarray:
    """A body in air, HU."""
    i, j, k = np.meshgrid(*map(np.arange, (40, 36, 24)), indexing="ij")
    inside = ((i - 20) / 17) ** 2 + ((j - 18) / 14) ** 2 < 1
    return np.where(inside, 40 + 60 * np.sin(i / 4) * np.cos(j / 5) + 4 * k, -1000).astype(np.int16)


@contextmanager
def running(folder: Path, changes: dict[str, Any]) -> Iterator[str]:
    """Its address, once it can answer."""
    command = [sys.executable, "-c", SERVE.format(changes=repr(changes))]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        until = time.monotonic() + START_S
        while httpx.get(f"{url}/ready").status_code != 200:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stdout.close()  # type: ignore[union-attr]
