"""A Prefect database with 10,000 flow runs: what its page's first look costs, before and after the shipped retention.

Run     python -m benchmarks.many_runs [--runs 10000] [--database postgresql+asyncpg://USER:PASSWORD@HOST/NAME]
Expect  a table: the server's answers to the queries that the page of runs makes, median and worst of 5; then the vacuum,
        as `medseg ui` and docker/compose.yaml set it, and the same again

The runs are written into the database as Prefect writes them, a year of them: each with its last states, four task
runs and ten lines of log. Without --database: SQLite in a temporary folder, as `medseg ui` has it.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from flows.server import QUIET, RETENTION

PORT, TASKS, LINES, STATES, DAYS = 4391, 4, 10, 3, 365
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--database")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = arguments.database or f"sqlite+aiosqlite:///{folder}/prefect.db"
        with server(database, Path(folder), vacuum=False) as api:
            ask(api, "flows/", {"name": "training"})
            asyncio.run(fill(database, arguments.runs))
            told = count(api)
            show(f"{told} runs, {TASKS * told} task runs", measure(api))
        started = time.monotonic()
        with server(database, Path(folder), vacuum=True) as api:
            left, before = count(api), told + 1
            while left < before:  # it deletes batch by batch, and pauses between
                time.sleep(5)
                before, left = left, count(api)
            show(f"after the vacuum ({time.monotonic() - started:.0f} s): {left} runs", measure(api))


@contextmanager
def server(database: str, folder: Path, vacuum: bool) -> Iterator[str]:
    api = f"http://127.0.0.1:{PORT}/api"
    environment = {
        **os.environ, **QUIET, **RETENTION, "PREFECT_HOME": str(folder), "PREFECT_API_DATABASE_CONNECTION_URL": database,
        "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "5",  # else an hour
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
    """One run is made by the server's own models, so that every column has what it has; the rest are copies of it."""
    engine, is_sqlite = create_async_engine(database), database.startswith("sqlite")
    new_id = "lower(hex(randomblob(4))||'-'||hex(randomblob(2))||'-4'||substr(hex(randomblob(2)),2)||'-8'||substr(hex(randomblob(2)),2)||'-'||hex(randomblob(6)))" if is_sqlite else "gen_random_uuid()"  # fmt: skip # noqa: E501
    then = "strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || (n % :days) || ' days', '-' || (n % 86400) || ' seconds')" if is_sqlite else "now() - make_interval(days => n % :days, secs => n % 86400)"  # fmt: skip # noqa: E501
    later = then.replace("'now'", "'now', '+60 seconds'") if is_sqlite else f"{then} + interval '60 s'"
    numbers = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :count)"
    async with engine.begin() as connection:
        said = {"count": runs, "days": DAYS}
        flow = (await connection.execute(text("SELECT id FROM flow LIMIT 1"))).scalar_one()
        said["flow"] = flow
        for table, columns, values, count in (
            ("flow_run", "id, name, flow_id, state_type, state_name, state_timestamp, start_time, end_time, "
             "expected_start_time, created, updated, run_count, auto_scheduled, parameters, context, empirical_policy, tags, total_run_time",
             f"{new_id}, 'run-' || n, :flow, 'COMPLETED', 'Completed', {later}, {then}, {later}, {then}, {then}, {later}, 1, "
             f"{'1' if is_sqlite else 'true'}, '{{}}', '{{}}', '{{}}', '[]', {repr('1970-01-01 00:01:00.000000') if is_sqlite else chr(39) + '60 s' + chr(39)}", runs),
        ):  # fmt: skip
            await connection.execute(
                text(f"{numbers} INSERT INTO {table} ({columns}) SELECT {values} FROM s"), {**said, "count": count}
            )
        await copies(connection, new_id, is_sqlite)
    await engine.dispose()


async def copies(connection: Any, new_id: str, is_sqlite: bool) -> None:
    """States, task runs and lines of log of every run."""
    numbers = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :count)"
    empty = "'{}'"
    await connection.execute(
        text(
            f"{numbers} INSERT INTO flow_run_state (id, created, updated, flow_run_id, type, timestamp, name, message, "
            f"state_details, data) SELECT {new_id}, r.created, r.updated, r.id, 'COMPLETED', r.end_time, 'Completed', '', "
            f"{empty}, NULL FROM flow_run r, s"
        ),
        {"count": STATES},
    )
    await connection.execute(
        text(
            f"{numbers} INSERT INTO task_run (id, created, updated, name, flow_run_id, task_key, dynamic_key, state_type, "
            "state_name, state_timestamp, start_time, end_time, expected_start_time, run_count, flow_run_run_count, "
            "empirical_policy, task_inputs, tags, total_run_time, labels) "
            f"SELECT {new_id}, r.created, r.updated, 'stage-' || s.n, r.id, 'stage', s.n, 'COMPLETED', 'Completed', "
            f"r.end_time, r.start_time, r.end_time, r.start_time, 1, 1, {empty}, {empty}, '[]', r.total_run_time, {empty} "
            "FROM flow_run r, s"
        ),
        {"count": TASKS},
    )
    await connection.execute(
        text(
            f"{numbers} INSERT INTO log (id, created, updated, name, level, flow_run_id, message, timestamp) "
            f"SELECT {new_id}, r.created, r.updated, 'prefect.flow_runs', 20, r.id, 'step ' || s.n || ' of 10', r.end_time "
            "FROM flow_run r, s"
        ),
        {"count": LINES},
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
    return found


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
    print(f"  all, one after another   median {statistics.median(map(sum, zip(*found.values(), strict=True))):6.3f} s")


if __name__ == "__main__":
    main()
