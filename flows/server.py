"""Prefect and MLflow servers of this project: an embedded one for a single command, or all of them for `medseg ui`.

Every server is tethered to the command that started it, keeps its state in .medseg, listens on the loopback interface
only and lets nobody in but its owner (flows/door.py, flows/login.py). A server of one's own is named by PREFECT_API_URL
and MLFLOW_TRACKING_URI.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows import leftovers, lock, login, programs, work_pool
from pipelines.work import cache, project

PREFECT_MAJOR = "3"
QUIET = {
    "DO_NOT_TRACK": "true",  # MLflow wants the literal word
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_CLI_PROMPT": "false",
    # A lease in memory would be lost when the server restarts, and its slot taken for ever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
# Or its database grows for ever; as docker/compose.yaml has it. Variables of one's own come first.
RETENTION = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 86_400),
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P7D",
}
# Not Prefect's mode for a web server alone: it does not write task runs down, which clients report as events only.
FOR_ONE_COMMAND = {
    f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false"
    for service in ("SCHEDULER", "LATE_RUNS", "FOREMAN", "TRIGGERS", "EVENT_PERSISTER")
} | {"PREFECT_API_BLOCKS_REGISTER_ON_START": "false"}  # a second of every start, for blocks that no flow of ours has
RETRIES = "3"  # each twice as long after the one before, 14 s in all: a server of this machine is back by then, or gone
UI_STARTS_S = 240.0  # two servers and a worker; 10 s on a machine that has nothing else to do
Ready = Callable[[], str]


def prepare_environment() -> None:
    """Before the first `import prefect`: no telemetry, state in .medseg, this interpreter's folder first in PATH."""
    for key, value in {**QUIET, **RETENTION}.items():
        os.environ.setdefault(key, value)
    os.environ["MEDSEG_ROOT"] = str(project.root())
    os.environ.setdefault("PREFECT_HOME", str(project.state_folder() / "prefect"))
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    folder = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])


@contextmanager
def reachable() -> Iterator[Ready]:
    """A Prefect API for this process: PREFECT_API_URL's, the running `medseg ui`'s, or one embedded for the block.

    Gives a function that waits until it answers and returns its address, so that slow imports overlap its start.
    """
    prepare_environment()
    given = os.environ.get("PREFECT_API_URL")
    if not given and (ui := _ui_that_is_up()):
        given = str(ui["prefect_api"])
        if ui["login"]:
            os.environ["PREFECT_API_AUTH_STRING"] = login.read()
    if given:
        os.environ["PREFECT_API_URL"] = given
        _expect(given)
        check_version(given)
        yield lambda: given
        return
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", RETRIES)
    with _own_servers() as alone, _prefect(alone, 0, FOR_ONE_COMMAND) as (_, ready):
        try:
            yield ready
        finally:
            _send_what_is_queued()
            del os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"]


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


def serve(announce: Callable[[dict[str, str]], None]) -> None:
    """`medseg ui`: Prefect with its scheduler, MLflow, and a worker, until interrupted or until one of them ends.

    A server that PREFECT_API_URL or MLFLOW_TRACKING_URI names is used instead of an own one.
    """
    prepare_environment()
    project.keep_private()
    with lock.claimed("ui") as claim, ExitStack() as stack:
        if claim is None:
            raise ValueError(
                f"`medseg ui` already runs in this project: {(running_ui() or {}).get('prefect', 'starting')}"
            )
        alone = stack.enter_context(_own_servers())
        alive: dict[str, subprocess.Popen[bytes]] = {}
        own_prefect = not os.environ.get("PREFECT_API_URL")
        if own_prefect:
            alive["server"], ready = stack.enter_context(_prefect(alone, 4200, {}))
        else:
            _expect(os.environ["PREFECT_API_URL"])
        mlflow_ui = _mlflow_for(stack, alive)  # starts beside it
        api = ready() if own_prefect else os.environ["PREFECT_API_URL"]
        addresses = {"prefect_api": api, "prefect": api.removesuffix("/api"), "mlflow": mlflow_ui}
        alive["worker"] = stack.enter_context(work_pool.worker())
        programs.wait_until_it_answers(f"{mlflow_ui}/health", "mlflow", alive.get("mlflow"))
        claim.say(**addresses, login=own_prefect)
        announce({**addresses, "login": str(login.file()) if alive.keys() & {"server", "mlflow"} else ""})
        while not (ended := [name for name, process in alive.items() if process.poll() is not None]):
            time.sleep(0.5)
        raise ValueError(f"the {ended[0]} ended: {programs.last_line(ended[0])}")


def running_ui() -> dict[str, Any] | None:
    """The addresses of the `medseg ui` that runs in this project, or None. `login`: whether its Prefect has ours."""
    said = lock.holder("ui")
    return said if said and "prefect_api" in said else None


def _ui_that_is_up() -> dict[str, Any] | None:
    """That runs; or the one that is just starting, once it is up."""
    deadline = time.monotonic() + UI_STARTS_S
    while lock.holder("ui") == {} and time.monotonic() < deadline:
        time.sleep(0.2)
    return running_ui()


def _own_servers() -> AbstractContextManager[bool]:
    """For as long as we have servers: the first of this project renews the login. Gives whether we are the first."""
    return lock.shared("servers", first=login.renew)


@contextmanager
def _prefect(
    alone: bool, preferred_port: int, extra: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Ready]]:
    """An own server; `alone`: no other runs, so that it tidies up what killed commands left in the database."""
    cache.mend(Path(os.environ["PREFECT_HOME"]) / "prefect.db", "the history of runs, and approvals that are open")
    with ExitStack() as starting, _listening(preferred_port) as (address, listening):
        starting.enter_context(lock.waited_for("server-starts"))  # of two at once on a new database, one would fail
        started, api, secret = datetime.now(UTC), f"{address}/api", login.read()
        os.environ.update(PREFECT_API_URL=api, PREFECT_API_AUTH_STRING=secret)
        own = {
            "PREFECT_SERVER_API_AUTH_STRING": secret,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address,
            "PREFECT_SERVER_UI_API_URL": api,  # on a port other than 4200 every page is empty without it
        }
        with _behind_the_door("server", "prefect", listening, {**own, **extra}) as process:

            def ready() -> str:
                programs.wait_until_it_answers(f"{api}/health", "server", process)
                starting.close()
                if alone:
                    leftovers.mark_crashed(started)
                return api

            yield process, ready


def _expect(api: str) -> str:
    """A server that runs already."""
    programs.wait_until_it_answers(f"{api}/health", "Prefect server", None, patience_s=10)
    return api


def _mlflow_for(stack: ExitStack, alive: dict[str, subprocess.Popen[bytes]]) -> str:
    """The address of MLflow's page, of the server that is named or of one started here, which is added to `alive`."""
    from pipelines.release import tracking

    tracking.require_answer()
    if page := tracking.page():
        return page
    address, listening = stack.enter_context(_listening(5000))
    extra = {
        "MLFLOW_BACKEND_STORE_URI": tracking.tracking_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # GenAI's: 7 processes
    }
    alive["mlflow"] = stack.enter_context(_behind_the_door("mlflow", "mlflow", listening, extra))
    return address


@contextmanager
def _behind_the_door(
    name: str, application: str, listening: socket.socket, extra: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    fd = listening.fileno()
    command = [sys.executable, "-m", "flows.door", application, str(fd)]
    with programs.logged(name, command, extra, keep_open=[fd]) as process:
        listening.close()  # ours; a server that ends refuses connections at once
        yield process


@contextmanager
def _listening(preferred_port: int) -> Iterator[tuple[str, socket.socket]]:
    """A loopback socket and its address, on the preferred port if that is free.

    Bound here and handed over, so that nobody can take the port before the server does and be sent its login.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", preferred_port))
        except OSError:
            listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        yield "http://{}:{}".format(*listening.getsockname()), listening


def _send_what_is_queued() -> None:
    """Logs and events leave on threads; at exit they would retry for a minute against a server that is gone."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=5)
        EventsWorker.drain_all(timeout=5)
