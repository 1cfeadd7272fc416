"""`medseg metrics`: figures of this project for Prometheus. No names, no paths, nothing of a scan.

Runs are asked of the Prefect server that is named or that `medseg ui` started; without one these figures are missing,
and `medseg_prefect_up` is 0. Rules and a page for them: docker/watching.
"""

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flows import cost, lock, login, server
from pipelines.work import environment, project

GOING = ("RUNNING", "PENDING", "LATE", "SCHEDULED", "PAUSED", "CANCELLING")
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
WALK_EVERY_S = 600.0  # a look at all folders of scans
GPU_FIGURES = {
    "utilization.gpu": ("medseg_gpu_utilisation_ratio", "Share of the last second in which a kernel ran", 0.01),
    "power.draw": ("medseg_gpu_watts", "Power now", 1.0),
    "ecc.errors.uncorrected.volatile.total": ("medseg_gpu_uncorrected_errors", "Memory errors since the start", 1.0),
}


def text() -> str:
    registry = CollectorRegistry()
    registry.register(Figures())
    return generate_latest(registry).decode()


def serve(host: str, port: int) -> None:
    """Until ended; each request asks anew."""
    registry = CollectorRegistry()
    registry.register(Figures())
    _, thread = start_http_server(port, host, registry)
    thread.join()


class Figures(Collector):
    def __init__(self) -> None:
        self._walked_at, self._newest = float("-inf"), 0.0

    def describe(self) -> Iterable[Metric]:
        return []  # or they would be collected once more to be named

    def collect(self) -> Iterable[Metric]:
        yield from _runs()
        yield from _disks()
        yield from _gpus()
        yield from _costs()
        yield from self._data()
        yield GaugeMetricFamily("medseg_run_silent_seconds", "Since a run last wrote anything; 0 without", _silence())
        made = project.state_folder() / "backup.json"
        if made.is_file():
            yield GaugeMetricFamily(
                "medseg_backup_age_seconds", "Of the newest copy", time.time() - made.stat().st_mtime
            )

    def _data(self) -> Iterator[Metric]:
        raw = project.root() / project.RAW
        if not raw.is_dir():
            return
        if time.monotonic() - self._walked_at > WALK_EVERY_S:
            folders = (Path(folder) for folder, _, _ in os.walk(raw.resolve()))
            self._newest, self._walked_at = max(folder.stat().st_mtime for folder in folders), time.monotonic()
        yield GaugeMetricFamily("medseg_newest_scan_seconds", "Since a scan last came", time.time() - self._newest)


def _runs() -> Iterator[Metric]:
    try:
        going = {state: _count(state) for state in GOING}
        ended = {state: _count(state, datetime.now(UTC) - timedelta(days=1)) for state in ENDED}
    except OSError:
        yield GaugeMetricFamily("medseg_prefect_up", "Whether Prefect answers", 0)
        return
    yield GaugeMetricFamily("medseg_prefect_up", "Whether Prefect answers", 1)
    yield _labelled("medseg_runs", "Runs that have not ended", "state", going)
    yield _labelled("medseg_runs_ended_day", "Runs that ended within a day", "state", ended)


def _count(state: str, ended_after: datetime | None = None) -> float:
    """Of runs in this state; LATE is a name that Prefect gives a scheduled one."""
    name = {"name": {"any_": ["Late"]}} if state == "LATE" else {"type": {"any_": [state]}}
    asked: dict[str, Any] = {"state": name}
    if ended_after:
        asked["end_time"] = {"after_": ended_after.isoformat()}
    ui = server.running_ui() or {}
    api = os.environ.get("PREFECT_API_URL") or ui.get("prefect_api")
    if not api:
        raise OSError("no server")
    secret = os.environ.get("PREFECT_API_AUTH_STRING") or (login.read() if ui.get("login") else "")
    headers = {"Content-Type": "application/json"}
    if secret:
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    request = urllib.request.Request(f"{api}/flow_runs/count", json.dumps({"flow_runs": asked}).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return float(answer.read())


def _disks() -> Iterator[Metric]:
    root = project.root()
    checkpoints = environment.read().checkpoints
    places = {"project": root, "scans": root / project.RAW, "results": root / ".dvc/cache"}
    free = {}
    for name, path in (places | ({"checkpoints": checkpoints} if checkpoints else {})).items():
        if path.is_dir():
            found = os.statvfs(path)
            free[name] = found.f_bavail / found.f_blocks
    yield _labelled("medseg_disk_free_ratio", "Of each disk, what we may write", "place", free)


def _gpus() -> Iterator[Metric]:
    if not shutil.which("nvidia-smi"):
        return
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIGURES)}", "--format=csv,noheader,nounits"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    rows = [line.split(",") for line in ended.stdout.splitlines() if ended.returncode == 0]
    for column, (name, meaning, unit) in enumerate(GPU_FIGURES.values()):
        found = {str(number): _number(row[column]) for number, row in enumerate(rows)}
        known = {number: value * unit for number, value in found.items() if value is not None}
        yield _labelled(name, meaning, "gpu", known)


def _costs() -> Iterator[Metric]:
    costs = cost.noted()
    for name, meaning, value in (
        ("medseg_gpu_hours", "GPU-hours of all stages here", cost.total(costs).gpu_hours),
        ("medseg_kwh", "Energy of all stages here, a part of it estimated", cost.total(costs).kwh),
    ):
        yield CounterMetricFamily(name, meaning, value)


def _silence() -> float:
    """Only while somebody holds the lock."""
    said = lock.holder()
    if said is None or said.get("doing") != "run":
        return 0.0
    state, root = project.state_folder(), project.root()
    written = [state / "lock", *(state / "curves").glob("*/points.jsonl")]
    written += [path for name in ("data", "models", "reports") for path in (root / name).glob("*")]
    return time.time() - max(path.lstat().st_mtime for path in written)


def _labelled(name: str, meaning: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=(label,))
    for value, figure in values.items():
        family.add_metric((value,), figure)
    return family


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:  # [N/A]
        return None
