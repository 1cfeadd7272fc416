"""What a run of a deployment outlives, and what is left of one that is killed: on a Prefect server with PostgreSQL and
an MLflow server, each of which goes away in the middle. A toy's stages; the rest is real."""

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from flows import gpu_slot
from tests.flows.conftest import Project, eventually, start_ui
from tests.flows.prefect_server import BINARIES, Postgres, PrefectServer
from tests.pipelines.release.mlflow_server import Server

pytestmark = [
    pytest.mark.slow,  # most of it is waiting
    pytest.mark.skipif(not BINARIES, reason="no PostgreSQL here; Debian has it: apt-get install postgresql"),
]
TASK = "training/on-demand"


class Site:
    """A project, its worker, and the servers, which `medseg ui` did not start and so does not end."""

    def __init__(self, project: Project, postgres: Postgres, prefect: PrefectServer, mlflow: Server) -> None:
        self.project, self.postgres, self.prefect, self.mlflow = project, postgres, prefect, mlflow
        self.changes = 0

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(api=f"{self.prefect.page}/api")

    def start(self, hold: bool = False) -> FlowRun:
        """A training by the worker, of data that changed; one on `hold` stands still inside `train`."""
        self.changes += 1
        for name in ("hold", "held", "release"):
            (self.project.root / name).unlink(missing_ok=True)
        self.project.write("data/raw/a", f"content {self.changes}")
        if hold:
            self.project.write("hold", "")
        with self.client() as client:
            run = client.create_flow_run_from_deployment(client.read_deployment_by_name(TASK).id)
        if hold:
            eventually((self.project.root / "held").exists, 300, "train has begun")
        return run

    def release(self) -> None:
        (self.project.root / "release").touch()

    def ended(self, run: FlowRun, timeout_s: float = 600) -> FlowRun:
        def final() -> FlowRun | None:
            with suppress(Exception), self.client() as client:  # the server may be away
                now = client.read_flow_run(run.id)
                return now if now.state and now.state.is_final() else None
            return None

        found = eventually(final, timeout_s, f"{run.name} has ended", every_s=0.5)
        assert isinstance(found, FlowRun)
        return found

    def slots_taken(self) -> int:
        with self.client() as client:
            return client.read_global_concurrency_limit_by_name(gpu_slot.NAME).active_slots


@pytest.fixture(scope="module")
def site(fresh_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    mlflow = Server(tmp_path_factory.mktemp("mlflow"))
    with Postgres.started() as postgres:
        prefect = PrefectServer(tmp_path_factory.mktemp("prefect"), postgres.address)
        try:
            mlflow.start()
            prefect.start()
            project = fresh_template.copy(tmp_path_factory.mktemp("site") / "project")
            project.environment |= {"PREFECT_API_URL": f"{prefect.page}/api", "MLFLOW_TRACKING_URI": mlflow.address}
            yield Site(project, postgres, prefect, mlflow)
        finally:
            prefect.kill()
            mlflow.kill()


@pytest.fixture
def served_site(site: Site) -> Iterator[Site]:
    """With `medseg ui` as its worker; afterwards nothing is left of it."""
    ui = start_ui(site.project)
    yield site
    if ui.poll() is None:
        ui.terminate()
    ui.wait(timeout=120)
    eventually(lambda: not site.project.processes(), 30, f"nothing is left: {site.project.processes()}")


def test_a_database_that_restarts_in_mid_flow_costs_nothing(served_site: Site) -> None:
    run = served_site.start(hold=True)
    served_site.postgres.stop()
    time.sleep(10)
    served_site.postgres.start()
    served_site.release()
    ended = served_site.ended(run)
    assert ended.state_name == "Completed", ended.state


def test_a_prefect_server_that_is_away_for_minutes_costs_nothing(served_site: Site) -> None:
    """Longer than heartbeats and leases last."""
    run = served_site.start(hold=True)
    served_site.prefect.kill()
    time.sleep(150)
    served_site.prefect.start()
    served_site.release()
    ended = served_site.ended(run)
    assert ended.state_name == "Completed", ended.state
    eventually(lambda: served_site.slots_taken() == 0, 100, "its slot is free")


def test_an_mlflow_that_is_away_when_training_ends_gets_its_version_later(served_site: Site) -> None:
    run = served_site.start(hold=True)
    served_site.mlflow.kill()
    served_site.release()
    with served_site.client() as client:

        def tried() -> bool:
            from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

            of_it = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            return any(task.state_name == "AwaitingRetry" for task in client.read_task_runs(flow_run_filter=of_it))

        eventually(tried, 300, "it tries again")
    served_site.mlflow.start()
    ended = served_site.ended(run)
    assert ended.state_name == "Completed", ended.state
    assert '"version": "' in served_site.project.medseg("status", "--json").stdout


def test_of_two_trainings_at_once_the_second_is_left_out(served_site: Site) -> None:
    first = served_site.start(hold=True)
    with served_site.client() as client:
        second = client.create_flow_run_from_deployment(client.read_deployment_by_name(TASK).id)
    ended = served_site.ended(second)
    assert ended.state_name == "Skipped"
    assert "another run is busy in this project" in str(ended.state and ended.state.message)
    assert served_site.slots_taken() == 1
    served_site.release()
    assert served_site.ended(first).state_name == "Completed"
    assert served_site.slots_taken() == 0


def test_a_killed_worker_leaves_no_process_frees_its_slot_and_its_run_counts_as_crashed(site: Site) -> None:
    ui = start_ui(site.project)
    run = site.start(hold=True)
    assert site.slots_taken() == 1
    (worker,) = workers(site.project.root)
    killed = time.monotonic()
    worker.send_signal(signal.SIGKILL)
    assert ui.wait(timeout=60) == 1  # `medseg ui` says that its worker ended
    eventually(lambda: not site.project.processes(), 30, f"nothing is left: {site.project.processes()}")
    eventually(lambda: site.slots_taken() == 0, 100 - (time.monotonic() - killed), "the slot is free")
    freed_s = time.monotonic() - killed
    ended = site.ended(run, 300)
    print(f"slot free after {freed_s:.0f} s, crashed after {time.monotonic() - killed:.0f} s")
    assert ended.state_name == "Crashed"
    (site.project.root / "hold").unlink()
    ui = start_ui(site.project)
    again = site.start()
    assert site.ended(again).state_name == "Completed"
    ui.terminate()
    ui.wait(timeout=120)


def workers(root: Path) -> list[psutil.Process]:
    """The worker itself, not what tethers it."""
    return [
        each
        for each in psutil.process_iter()
        if each.cmdline()[1:5] == ["-m", "prefect", "worker", "start"] and each.cwd() == str(root)
    ]
