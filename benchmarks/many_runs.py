"""A Prefect database of 10,000 flow runs: what its pages cost first, before and after the shipped retention.

Run     python -m benchmarks.many_runs [--runs 10000] [--postgresql]
Expect  a table: what the queries of the page of runs cost, median and worst of 5; and, where there is Chromium, seconds
        from the address to the first run on the page and to the dashboard's figures, in a browser that has the page's
        files already. All of it for one run in the database, for all of them, and after the vacuum, as `medseg ui` and
        docker/compose.yaml set it

The runs are written into the database as Prefect writes them, a year of them: each with its states, four task
runs and ten lines of log. SQLite in a temporary folder, as `medseg ui` has it, or a PostgreSQL of Debian's package.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect.client.schemas.objects import StateType
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import create_async_engine

from flows.server import QUIET, RETENTION
from tests.flows.prefect_server import Postgres
from tests.pipelines.pages import chromium
from tests.pipelines.pages.chromium import Chromium

RETAINED_DAYS = int(RETENTION["PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"]) / 86_400
PATIENCE_S = 1200
PORT, TASKS, LINES, DAYS, BATCH = 4391, 4, 10, 365, 500
PAGE: dict[str, dict[str, Any]] = {  # what the pages of runs and the dashboard ask first
    "flow_runs/paginate": {"sort": "START_TIME_DESC", "limit": 10, "page": 1},
    "flow_runs/filter": {"sort": "EXPECTED_START_TIME_DESC", "limit": 200},
    "flow_runs/count": {},
    "flow_runs/history": {},
    "task_runs/count": {},
    "flows/filter": {"limit": 10},
    "deployments/filter": {"limit": 50},
    "ui/flow_runs/history": {"sort": "EXPECTED_START_TIME_DESC", "limit": 1000},
}
SEEN = {"runs": r"/run-\d+/", "dashboard": r"/\d+\s+total/"}  # on a page that is there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--postgresql", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        database = f"sqlite+aiosqlite:///{folder}/prefect.db"
        if arguments.postgresql:
            database = stack.enter_context(Postgres.started()).address
        with server(database, Path(folder), vacuum=False) as api:
            ask(api, "flows/", {"name": "training"})
            asyncio.run(fill(database, 1))
            show("1 run", measure(api))
            asyncio.run(fill(database, arguments.runs - 1))
            told = count(api)
            show(f"{told} runs, {TASKS * told} task runs", measure(api))
        started, kept = time.monotonic(), told * (RETAINED_DAYS + 1) / DAYS
        with server(database, Path(folder), vacuum=True) as api:
            while (left := count(api)) > kept and time.monotonic() - started < PATIENCE_S:
                time.sleep(2)
            show(f"after the vacuum ({time.monotonic() - started:.0f} s): {left} runs", measure(api))


@contextmanager
def server(database: str, folder: Path, vacuum: bool) -> Iterator[str]:
    api = f"http://127.0.0.1:{PORT}/api"
    environment = {
        **os.environ, **QUIET, **RETENTION,
        "PREFECT_HOME": str(folder), "PREFECT_API_DATABASE_CONNECTION_URL": database,
        "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "5",  # else an hour
        "PREFECT_SERVER_UI_API_URL": api,
    }  # fmt: skip
    if not vacuum:
        environment["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] = "events"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(PORT)]
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    urllib.request.urlopen(f"{api}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.3)
            yield api
        finally:
            process.terminate()


async def fill(database: str, runs: int) -> None:
    """Through the tables as Prefect declares them, so that every column has the value that Prefect gives it."""
    from prefect.server.database import orm_models as orm

    engine, now = create_async_engine(database), datetime.now(UTC)
    async with engine.begin() as connection:
        flow = (await connection.execute(select(orm.Flow.id).limit(1))).scalar_one()
        for number in range(0, runs, BATCH):
            made = [_rows(flow, each, now) for each in range(number, min(number + BATCH, runs))]
            for table, rows in zip(
                (orm.FlowRun, orm.FlowRunState, orm.TaskRun, orm.Log), zip(*made, strict=True), strict=True
            ):
                await connection.execute(insert(table), [row for part in rows for row in part])
    await engine.dispose()


def _rows(flow: Any, number: int, now: datetime) -> tuple[list[dict[str, Any]], ...]:
    """Of one run: itself, its states, its task runs, its log."""
    began = now - timedelta(days=DAYS) * ((number + 0.5) % 9973 / 9973)
    ended, run = began + timedelta(minutes=10), uuid4()
    state = StateType.COMPLETED if number % 20 else StateType.FAILED
    times = {"start_time": began, "end_time": ended, "expected_start_time": began, "created": began, "updated": ended}
    told = {"state_type": state, "state_name": state.value.capitalize(), "state_timestamp": ended}
    same = {"total_run_time": ended - began, "run_count": 1, **times, **told}
    states = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, state)
    return (
        [{"id": run, "flow_id": flow, "name": f"run-{number}", "auto_scheduled": True, **same}],
        [
            {
                "flow_run_id": run,
                "type": kind,
                "name": kind.value.capitalize(),
                "timestamp": began + timedelta(minutes=at),
            }
            for at, kind in enumerate(states)
        ],
        [
            {"flow_run_id": run, "name": f"stage-{task}", "task_key": "stage", "dynamic_key": str(task), **same}
            for task in range(TASKS)
        ],
        [
            {
                "flow_run_id": run,
                "name": "prefect.flow_runs",
                "level": 20,
                "message": f"step {line}",
                "timestamp": ended,
            }
            for line in range(LINES)
        ],
    )


def measure(api: str) -> dict[str, list[float]]:
    now = time.time()
    span = {
        "history_start": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 7 * 86_400)),
        "history_end": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "history_interval_seconds": 3600,
    }
    found: dict[str, list[float]] = {}
    for _ in range(5):
        for path, body in PAGE.items():
            asked = {**body, **span} if path == "flow_runs/history" else body
            started = time.monotonic()
            ask(api, path, asked)
            found.setdefault(path, []).append(time.monotonic() - started)
    return found | {"all, one after another": list(map(sum, zip(*found.values(), strict=True)))} | pages(api)


def pages(api: str) -> dict[str, list[float]]:
    """Seconds until a person sees what was asked for, without the browser's first time; none without a browser."""
    if chromium.program() is None:
        return {}
    found: dict[str, list[float]] = {f"page {path}": [] for path in SEEN}
    with tempfile.TemporaryDirectory() as profile, Chromium.started(Path(profile)) as browser:
        browser.size(1280, 900)
        for _ in range(6):
            for path, seen in SEEN.items():
                browser.call("Page.navigate", url="about:blank")
                started = time.monotonic()
                browser.call("Page.navigate", url=f"{api.removesuffix('/api')}/{path}")
                browser.wait(f"{seen}.test(document.body?.innerText)", 120)
                found[f"page {path}"].append(time.monotonic() - started)
    return {path: seconds[1:] for path, seconds in found.items()}


def count(api: str) -> int:
    return int(ask(api, "flow_runs/count", {}))


def ask(api: str, path: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(f"{api}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        found: bytes = answer.read()
    return found


def show(title: str, found: dict[str, list[float]]) -> None:
    print(title)
    for path, seconds in found.items():
        print(f"  {path:<24} median {statistics.median(seconds):6.3f} s   worst {max(seconds):6.3f} s")


if __name__ == "__main__":
    main()
