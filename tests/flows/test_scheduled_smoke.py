"""The real stages, on a schedule, through a real server and worker, as a new user would have it; and Prefect's page of
that run in a browser. Once with what `medseg ui` starts, on SQLite; once on a server with PostgreSQL."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun

from flows.outcomes import SKIPPED
from tests.flows.conftest import Project, eventually, schedule_training, start_ui
from tests.flows.prefect_server import BINARIES, Postgres, PrefectServer
from tests.pipelines.pages import chromium
from tests.pipelines.pages.chromium import Chromium
from tests.test_pipeline import copy_project

pytestmark = [
    pytest.mark.slow,  # a whole training each
    pytest.mark.skipif(chromium.program() is None, reason="no Chromium here; Debian has it: apt-get install chromium"),
]
SOON = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "3",
}


@pytest.fixture(params=["sqlite", "postgresql"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """With `medseg ui` up and the schedules on."""
    made = Project(copy_project(tmp_path / "project"), dict(SOON))
    if request.param == "sqlite":
        yield from served(made)
        return
    if not BINARIES:
        pytest.skip("no PostgreSQL here; Debian has it: apt-get install postgresql")
    (tmp_path / "prefect").mkdir()
    with Postgres.started() as postgres:
        server = PrefectServer(tmp_path / "prefect", postgres.address)
        made.environment["PREFECT_API_URL"] = f"{server.page}/api"
        made.environment["PREFECT_API_AUTH_STRING"] = ""
        try:
            server.start()
            yield from served(made)
        finally:
            server.kill()


def served(project: Project) -> Iterator[Project]:
    ui = start_ui(project)
    try:
        schedule_training(project)
        yield project
    finally:
        ui.terminate()
        ui.wait(timeout=120)


def test_a_scheduled_training_completes_and_its_page_shows_logs_and_artifacts(project: Project, tmp_path: Path) -> None:
    for client in project.prefect():
        run = eventually(lambda: ended(client), 1500, "the scheduled training has ended")  # noqa: B023
        assert run.auto_scheduled
        assert run.state_name == "Completed", run.state
    registered = json.loads(project.medseg("status", "--json", timeout_s=300).stdout)["registered"]
    assert registered["version"] == "1"
    with Chromium.started(tmp_path / "profile") as browser:
        look(browser, project, run)


def ended(client: SyncPrefectClient) -> FlowRun | None:
    by_policy = DeploymentFilter(name=DeploymentFilterName(any_=["by-policy"]))
    runs = client.read_flow_runs(deployment_filter=by_policy)
    return next((run for run in runs if run.state and run.state.is_final() and run.state.name != SKIPPED), None)


def look(browser: Chromium, project: Project, run: FlowRun) -> None:
    page = project.environment["PREFECT_API_URL"].removesuffix("/api")
    login = base64.b64encode(project.environment["PREFECT_API_AUTH_STRING"].encode()).decode()
    browser.size(1200, 900)
    browser.call("Page.navigate", url=f"{page}/")
    browser.wait("document.readyState === 'complete'")
    browser.evaluate(f"localStorage.setItem('prefect-password', '{login}')")
    browser.call("Page.navigate", url=f"{page}/runs/flow-run/{run.id}")
    for words in (run.name, "Completed", "Running stage 'inventory'"):
        browser.wait(f"document.body?.innerText.includes({json.dumps(words)})", 120)
    keep(browser, "run")
    browser.evaluate("document.querySelector('#artifacts').click()")
    for words in ("dice", "stages", "progress", "evaluation"):
        browser.wait(f"document.body?.innerText.includes({json.dumps(words)})", 120)
    keep(browser, "artifacts")


def keep(browser: Chromium, name: str) -> None:
    """A picture, in the folder that TEST_PICTURES names, if it does."""
    if folder := os.environ.get("TEST_PICTURES"):
        browser.picture().save(Path(folder) / f"prefect-{name}.png")
