"""Prefect and MLflow servers of this project: an embedded one for a single command, or all of them for `medseg ui`.

Every server is tethered to the command that started it and keeps its state in .medseg/prefect; nothing listens
on anything but the loopback interface. A server of one's own is named by PREFECT_API_URL and MLFLOW_TRACKING_URI.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from flows import lock, processes
from pipelines.work import cache, project

POOL = "medseg"
PREFECT_MAJOR = "3"
START_TIMEOUT_S = 120  # 2.5 s warm, 8 s when the database is new; slow disks take many times that
QUIET = {
    "DO_NOT_TRACK": "true",  # MLflow wants the literal word
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_CLI_PROMPT": "false",
}


def prepare_environment() -> None:
    """Before the first `import prefect`: no telemetry, state in .medseg, this interpreter's folder first in PATH."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    os.environ["MEDSEG_ROOT"] = str(project.root())
    os.environ.setdefault("PREFECT_HOME", str(project.state_folder() / "prefect"))
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    folder = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])


@contextmanager
def reachable() -> Iterator[Callable[[], str]]:
    """A Prefect API for this process: PREFECT_API_URL's, the running `medseg ui`'s, or one embedded for the block.

    Gives a function that waits until it answers and returns its address, so that slow imports overlap its start.
    """
    prepare_environment()
    if given := os.environ.get("PREFECT_API_URL") or (running_ui() or {}).get("prefect_api"):
        os.environ["PREFECT_API_URL"] = given
        _wait_until_it_answers(f"{given}/health", "Prefect server", None, patience_s=10)
        check_version(given)
        yield lambda: given
        return
    with _prefect(free_port(), {"PREFECT__SERVER_WEBSERVER_ONLY": "1"}) as (_, ready):  # nothing is scheduled by it
        try:
            yield ready
        finally:
            _send_what_is_queued()
            os.environ.pop("PREFECT_API_URL", None)


def check_version(api: str) -> None:
    """Raise ValueError if a Prefect server of another major version answers there; its routes are others."""
    try:
        with urllib.request.urlopen(f"{api}/admin/version", timeout=5) as answer:
            found = str(json.load(answer))
    except (OSError, ValueError):
        return  # it wants a password, or is no such server: the client says so
    if found.partition(".")[0] != PREFECT_MAJOR:
        raise ValueError(
            f"{api} is a Prefect server of version {found}, {PREFECT_MAJOR} is needed; upgrade it, or unset "
            "PREFECT_API_URL to use one of this project's own"
        )


@contextmanager
def worker(*queues: str) -> Iterator[subprocess.Popen[bytes]]:
    """Apply prefect.yaml, then a process worker on the pool, of the named queues only if any. Needs PREFECT_API_URL."""
    deploy()
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    command += ["--install-policy", "never", *(part for queue in queues for part in ("--work-queue", queue))]
    with _logged("worker", command, {"PREFECT_WORKER_QUERY_SECONDS": "2"}) as process:
        yield process


def deploy() -> None:
    """Create the work pool if it is missing, and the deployments of prefect.yaml. Raises ValueError if refused."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "prefect.yaml"]
    with _logged("deploy", command) as process:
        if process.wait():
            raise ValueError(f"prefect.yaml: Prefect refuses it, see {_log('deploy')}: {_last_line('deploy')}")


def serve(announce: Callable[[dict[str, str]], None]) -> None:
    """`medseg ui`: Prefect with its scheduler, MLflow, and a worker, until interrupted or until one of them ends."""
    prepare_environment()
    with lock.claimed("ui") as claim, ExitStack() as stack:
        if claim is None:
            raise ValueError(
                f"`medseg ui` already runs in this project: {(running_ui() or {}).get('prefect', 'starting')}"
            )
        port = free_port(4200)
        server, ready = stack.enter_context(_prefect(port, {}))
        from pipelines.release import tracking

        mlflow_ui, alive = tracking.configure().get_tracking_uri(), {"server": server}
        if not mlflow_ui.startswith("http"):
            mlflow_port = free_port(5000)
            alive["mlflow"] = stack.enter_context(_mlflow(mlflow_ui, mlflow_port))
            mlflow_ui = f"http://127.0.0.1:{mlflow_port}"
        addresses = {"prefect_api": ready(), "prefect": f"http://127.0.0.1:{port}", "mlflow": mlflow_ui}
        alive["worker"] = stack.enter_context(worker())
        _wait_until_it_answers(f"{mlflow_ui}/health", "mlflow", alive.get("mlflow"))
        claim.say(**addresses)
        announce(addresses)
        while not (ended := [name for name, process in alive.items() if process.poll() is not None]):
            time.sleep(0.5)
        raise ValueError(f"the {ended[0]} ended: {_last_line(ended[0])}")


def running_ui() -> dict[str, Any] | None:
    """The addresses of the `medseg ui` that runs in this project, or None."""
    said = lock.holder("ui")
    return said if said and "prefect_api" in said else None


def free_port(preferred: int = 0) -> int:
    """A free loopback port, `preferred` if it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _prefect(port: int, extra: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    api = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    command += ["--timeout-graceful-shutdown", "2", "--timeout-keep-alive", "60"]
    cache.mend(Path(os.environ["PREFECT_HOME"]) / "prefect.db", "the history of runs, and approvals that are open")
    # On a port other than 4200 every page of the UI is empty without its API's address.
    with _logged("server", command, {"PREFECT_SERVER_UI_API_URL": api, **extra}) as process:
        os.environ["PREFECT_API_URL"] = api

        def ready() -> str:
            _wait_until_it_answers(f"{api}/health", "server", process)
            return api

        yield process, ready


def _send_what_is_queued() -> None:
    """Logs and events leave on threads; at exit they would retry for a minute against a server that is gone."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=5)
        EventsWorker.drain_all(timeout=5)


@contextmanager
def _mlflow(store: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(project.state_folder() / "mlartifacts")]
    extra = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven more processes, 200 MB each, for GenAI jobs
    with _logged("mlflow", [*command, "--workers", "1"], extra) as process:
        yield process


@contextmanager
def _logged(name: str, command: list[str], extra: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with (
        _log(name).open("wb") as log,
        processes.running(
            command,
            {**os.environ, **(extra or {})},
            cwd=project.root(),
            grace_s=5,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        yield process


def _wait_until_it_answers(
    address: str, name: str, process: subprocess.Popen[bytes] | None, patience_s: float = START_TIMEOUT_S
) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            pass
        if process is not None and process.poll() is not None:
            raise ValueError(f"the {name} did not start: {_last_line(name)}; see {_log(name)}")
        if time.monotonic() > deadline:
            raise ValueError(f"the {name} does not answer at {address} within {patience_s:g} s")
        time.sleep(0.05)


def _log(name: str) -> Path:
    folder = project.state_folder() / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.log"


def _last_line(name: str) -> str:
    lines = [line for line in _log(name).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
