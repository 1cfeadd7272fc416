"""`mlflow models serve`: a registered version answers over HTTP with the label map that `medseg predict` gives."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from pipelines.release import record, registration, registry, tracking
from pipelines.serving.conditions import Conditions
from pipelines.serving.from_files import segment_files
from pipelines.serving.segmenter import Segmenter
from pipelines.work import project
from pipelines.work.writing import write_json
from tests.pipelines.release import evaluated
from tests.pipelines.serving import exports

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns of its own code


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With version 1 of the model m."""
    monkeypatch.delenv(tracking.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    evaluated.make(tmp_path)
    metrics = tmp_path / project.EVALUATION / "metrics.json"
    told = json.loads(metrics.read_text())
    write_json(metrics, {**told, "conditions": Conditions.of_here(0.5).to_json()})
    write_json(tmp_path / record.FILE, record.make("m", tmp_path / project.TRAINED, tmp_path / project.EVALUATION))
    assert registration.make_version() == "1"
    return tmp_path


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "--model-uri",
        "models:/m/1",
        "--env-manager",
        "local",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow starts uvicorn by its name
    environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": tracking.tracking_uri(), "MEDSEG_WORKERS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                break
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()  # noqa: PT018
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def invoke(address: str, scan: Path) -> dict[str, list[list[list[list[int]]]]]:
    body = json.dumps({"inputs": [str(scan)]}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return dict(json.load(answer))


@pytest.mark.timeout(600)
def test_mlflow_serves_a_version(registered: Path) -> None:
    scan = exports.scan(registered / "scan.nii.gz")
    version = registry.find("models:/m/1")
    segmenter = Segmenter.load(version.weights(), Conditions.from_json(version.record["conditions"]))
    label = segment_files(segmenter, {"": scan}, None, None)[0].label
    with served(registered) as address:
        (found,) = invoke(address, scan)["predictions"]
        np.testing.assert_array_equal(np.asarray(found), label)
        with pytest.raises(urllib.error.HTTPError) as refused:
            invoke(address, registered / "gone.nii.gz")
        told = refused.value.read().decode()
    assert "input 0: file is missing" in told
    assert "gone" not in told
