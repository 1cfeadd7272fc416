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

from model import weights_file
from pipelines.release import registration, registry, tracking
from pipelines.serving.conditions import Conditions
from pipelines.serving.from_files import segment_files
from pipelines.serving.segmenter import Segmenter
from pipelines.work.writing import write_json
from tests.pipelines.serving import exports
from tests.pipelines.serving.networks import write_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns of its own code


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With version 1 of the model m."""
    monkeypatch.delenv(tracking.VARIABLE, raising=False)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    sha256 = weights_file.digest(write_weights(tmp_path / "models/train"))
    content = {
        "name": "m", "weights_sha256": sha256, "identity": {}, "conditions": Conditions.of_here(0.5).to_json(),
        "mean_dice": 0.5, "dice": {"kidney": 0.5}, "cases": 3,
    }  # fmt: skip
    write_json(tmp_path / "models/register/model.json", content)
    assert registration.make_version() == "1"
    return tmp_path


@contextmanager
def served(project: Path) -> Iterator[str]:
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
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking.tracking_uri(), "MEDSEG_WORKERS": "1"}
    with (project / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=project, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                break
            assert process.poll() is None and time.monotonic() < deadline, (project / "log").read_text()  # noqa: PT018
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def invoke(address: str, scan: Path) -> dict[str, list[list[list[list[int]]]]]:
    body = json.dumps({"inputs": [str(scan)]}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return dict(json.load(answer))


@pytest.mark.timeout(600)
def test_mlflow_serves_a_version(project: Path) -> None:
    scan = exports.scan(project / "scan.nii.gz")
    version = registry.find("models:/m/1")
    segmenter = Segmenter.load(version.weights(), Conditions.from_json(version.record["conditions"]))
    label = segment_files(segmenter, {"": scan}, None, None)[0].label
    with served(project) as address:
        (found,) = invoke(address, scan)["predictions"]
        np.testing.assert_array_equal(np.asarray(found), label)
        with pytest.raises(urllib.error.HTTPError) as refused:
            invoke(address, project / "gone.nii.gz")
        told = refused.value.read().decode()
    assert "input 0: file is missing" in told
    assert "gone" not in told
