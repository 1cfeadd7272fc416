"""A project with one version, not released, and `medseg serve` of it as a process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.release import record, registration, tracking
from pipelines.serving.conditions import Conditions
from pipelines.work import project
from pipelines.work.writing import write_json
from tests.conftest import REPOSITORY
from tests.pipelines.release import evaluated

PATIENCE_S = 240.0


def make_project(root: Path) -> Path:
    """Version 1 of model `m`: a `nano` with random weights that knows kidney and spleen in CT."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(tracking.VARIABLE, raising=False)
        patch.chdir(root)
        evaluated.make(root)
        metrics = root / project.EVALUATION / "metrics.json"
        told = json.loads(metrics.read_text())
        write_json(metrics, {**told, "conditions": Conditions.of_here(0.5).to_json()})
        write_json(root / record.FILE, record.make("m", root / project.TRAINED, root / project.EVALUATION))
        assert registration.make_version() == "1"
    return root


@dataclass
class Served:
    root: Path
    url: str
    token: str
    process: subprocess.Popen[bytes]

    def ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", **how.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, timeout=60, **how)

    def job(self, job_id: str, until: str = "state", true: tuple[str, ...] = ("done", "failed", "refused")) -> Any:
        """Once its state, or its `until`, is one of these."""
        end = time.monotonic() + PATIENCE_S
        while (told := self.ask("GET", f"/segmentations/{job_id}").json())[until] not in true:
            assert time.monotonic() < end, (told, self.log)
            time.sleep(0.3)
        return told

    @property
    def log(self) -> str:
        return (self.root / "serve.log").read_text()


@contextmanager
def served(root: Path, settings: dict[str, Any]) -> Iterator[Served]:
    """Until it is ready. A token `tests` is made where there is none."""
    write_json(root / "serve.yaml", {"port": 0, "model": "models:/m/1", "unreleased": True, **settings})
    token_file = root / "token"
    if not token_file.exists():
        token_file.write_text(_medseg(root, "serve", "token", "add", "tests").strip())
    with (root / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.commands.medseg", "serve"],
            cwd=root, env=_environment(), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield Served(root, _address(root, process), token_file.read_text(), process)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _address(root: Path, process: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        told = (root / "serve.log").read_text()
        assert process.poll() is None, told
        if found := re.search(r"Serving at (http://\S+);", told):
            with suppress(httpx.TransportError):
                if httpx.get(f"{found[1]}/ready", timeout=10).status_code == 200:
                    return found[1]
        time.sleep(0.3)
    raise AssertionError((root / "serve.log").read_text())


def _medseg(root: Path, *command: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "flows.commands.medseg", *command],
        cwd=root, env=_environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in (tracking.VARIABLE, "MEDSEG_ROOT")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "MEDSEG_WORKERS": "1"}
