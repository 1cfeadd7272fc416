"""A real server, a real process worker, runs that nobody started by hand, and what they leave to look at."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Scheduled

from flows import automations, deployments, gpu_slot, schedule
from flows.deployments import SCHEDULED, TABLE
from flows.outcomes import SKIPPED
from tests.flows.conftest import MEDSEG, Project, eventually
from tests.flows.receiver import Receiver


@pytest.fixture
def client(served: Project) -> Iterator[SyncPrefectClient]:
    yield from served.prefect()


def ended(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    def final() -> FlowRun | None:
        now = client.read_flow_run(run.id)
        return now if now.state and now.state.is_final() else None

    found = eventually(final, 300, f"{run.name} has ended", every_s=0.5)
    assert isinstance(found, FlowRun)
    return found


def start(client: SyncPrefectClient, name: str, **parameters: Any) -> FlowRun:
    """A run of a deployment, ended."""
    deployment = client.read_deployment_by_name(name)
    return ended(client, client.create_flow_run_from_deployment(deployment.id, parameters=parameters))


def artifacts(client: SyncPrefectClient, run: FlowRun) -> dict[str, str]:
    of_it = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
    return {str(each.key): str(each.data) for each in client.read_artifacts(artifact_filter=of_it)}


def test_scheduled_run_is_preempted_goes_on_by_itself_completes_and_leaves_its_tables(
    served: Project, client: SyncPrefectClient
) -> None:
    by_policy = client.read_deployment_by_name("training/by-policy")
    of_it = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[by_policy.id]))

    def first() -> FlowRun | None:
        runs = client.read_flow_runs(flow_run_filter=of_it)
        return next((run for run in runs if run.state and run.state.is_final() and run.state.name != SKIPPED), None)

    run = eventually(first, 240, "the cron run has ended", every_s=0.5)
    assert run.auto_scheduled
    assert run.state.is_completed(), run.state.message
    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
    assert sorted(task.state_name for task in tasks if task.name == "train") == ["Completed", "Preempted"]
    assert (served.root / "models/register/model.json").exists()
    shown = artifacts(client, run)
    assert '"structure": "hippocampus_anterior", "dice": 0.9, "cases": 4' in shown["dice"]
    assert [row["stage"] for row in json.loads(shown["stages"])] == [
        "ingest", "preprocess", "train", "evaluate", "register",
    ]  # fmt: skip
    assert "/#/models/medsegformer/versions/1" in shown["evaluation"]


def test_switched_off_nothing_is_due_and_what_people_set_stays(served: Project, client: SyncPrefectClient) -> None:
    before = {
        row["name"]: row for row in json.loads(served.medseg("schedule", "status", "--json").stdout)["deployments"]
    }
    told = json.loads(served.medseg("schedule", "off", "--json").stdout)
    assert told["worker"]
    assert told["gpu_cluster"] == {"slots": gpu_slot.SLOTS, "taken": 0}
    rows = {row["name"]: row for row in told["deployments"]}
    assert list(rows) == [each.full_name for each in TABLE]
    assert not any(row["active"] or row["next"] for row in rows.values())
    policy = "training/by-policy"
    assert rows[policy]["cron"] == before[policy]["cron"] != "0 2 * * *"
    again = json.loads(served.medseg("schedule", "on", "--json").stdout)
    assert {row["name"] for row in again["deployments"] if row["active"]} == {each.full_name for each in SCHEDULED}
    assert {row["name"]: row["cron"] for row in again["deployments"]} == {
        name: row["cron"] for name, row in before.items()
    }
    assert len(client.read_automations_by_name(automations.ZOMBIES)) == 1
    wrong = served.medseg("schedule", "on", "--training-at", "late")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    assert served.medseg("schedule", "off").returncode == 0  # for what follows


def test_what_the_scheduler_writes_while_it_is_switched_off_is_not_due_and_what_a_person_asked_for_is(
    served: Project, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads schedules, and then writes runs."""
    deployment = client.read_deployment_by_name(schedule.TRAINING)
    due = datetime.now(ZoneInfo(deployments.timezone_here())).replace(microsecond=0) + timedelta(hours=5)
    made: list[UUID] = []

    def passes(_seconds: float) -> None:
        for _ in range(2):
            made.append(client.create_flow_run_from_deployment(deployment.id, state=Scheduled(scheduled_time=due)).id)
        with closing(sqlite3.connect(served.root / ".medseg/prefect/prefect.db")) as database, database:
            database.execute("UPDATE flow_run SET auto_scheduled = 1 WHERE id = ?", (str(made[0]),))

    def left() -> list[UUID]:
        asked = FlowRunFilter(id=FlowRunFilterId(any_=made))
        return [each for each in made if each in {run.id for run in client.read_flow_runs(flow_run_filter=asked)}]

    monkeypatch.setattr(schedule, "sleep", passes)
    schedule.drop_due(client, [deployment], due.time().replace(second=0))  # it was moved to that time of day
    assert left() == made
    monkeypatch.setattr(schedule, "sleep", lambda _seconds: None)
    schedule.drop_due(client, [deployment], None)
    assert left() == made[1:]
    client.delete_flow_run(made[1])


def test_by_policy_does_nothing_until_enough_new_scans_have_come(served: Project, client: SyncPrefectClient) -> None:
    served.write("scans", "3")  # of the toy's ingest
    served.write("data/raw/a", "2")
    run = start(client, "training/by-policy", new_scans=4)
    assert run.state_name == "Skipped"
    assert run.state
    assert run.state.message == "3 new training scans since version 1; training by policy begins at 4"
    assert json.loads(served.here("status", "--json").stdout)["registered"]["version"] == "1"


def test_ingest_tells_how_many_scans_are_new_and_not_which(served: Project, client: SyncPrefectClient) -> None:
    served.write("scans", "5")
    served.write("data/raw/a", "3")
    run = start(client, "ingest/new-scans")
    assert run.state
    assert run.state.message == "2 new scans, 0 of them not usable"
    assert json.loads(artifacts(client, run)["new-scans"]) == [{"source": "msd", "scans": "train, labelled", "new": 2}]


def test_without_a_champion_nothing_is_evaluated_again(client: SyncPrefectClient) -> None:
    run = start(client, "reevaluation/weekly")
    assert (run.state_name, run.state and run.state.message) == ("Skipped", "there is no champion yet")


def test_who_needs_to_know_is_told_of_a_run_that_failed(client: SyncPrefectClient, receiver: Receiver) -> None:
    run = start(client, "training/on-demand", changes=["train.steps=0"])
    assert run.state_name == "Failed"
    told = eventually(lambda: [each for each in receiver.posted if each["run"] == run.name], 60, "it is told")
    assert (told[0]["flow"], told[0]["state"]) == ("training", "Failed")
    assert told[0]["page"].endswith(str(run.id))


@pytest.mark.slow
def test_schedules_switched_on_while_the_first_server_starts_are_on_that_one(fresh: Project) -> None:
    """As the commands of the guide are pasted."""
    ui = fresh.start(MEDSEG, "ui")
    try:
        eventually((fresh.root / ".medseg/ui").exists, 120, "medseg ui has begun")
        told = fresh.medseg("schedule", "on", "--training-at", "03:00", "--json", timeout_s=600)
        assert told.returncode == 0, told.stderr
        assert ui.poll() is None, fresh.read("out")
        assert json.loads(told.stdout)["server"].removesuffix("/api/") in fresh.read("out")
    finally:
        ui.terminate()
        ui.wait(timeout=120)


@pytest.mark.parametrize(
    "parameters",
    [{"profile": "nonsense"}, {"wait": "perhaps"}, {"data": 7}, {"changes": ["steps"]}, {"new_scans": -1}],
)
def test_server_refuses_bad_parameters(client: SyncPrefectClient, parameters: dict[str, object]) -> None:
    on_demand = client.read_deployment_by_name("training/on-demand")
    with pytest.raises(PrefectHTTPStatusError) as refused:
        client.create_flow_run_from_deployment(on_demand.id, parameters=parameters)
    assert refused.value.response.status_code in (409, 422)


def test_form_describes_every_parameter(client: SyncPrefectClient) -> None:
    for each in TABLE:
        properties = client.read_deployment_by_name(each.full_name).parameter_openapi_schema["properties"]
        assert all(field.get("description") for field in properties.values()), each.full_name
