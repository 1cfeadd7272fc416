"""A real server, a real process worker, a run that nobody started by hand."""

from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError

from tests.flows.conftest import Project, eventually


@pytest.fixture
def client(served: Project) -> Iterator[SyncPrefectClient]:
    yield from served.prefect()


def test_scheduled_run_is_preempted_goes_on_by_itself_completes_and_leaves_the_table(
    served: Project, client: SyncPrefectClient
) -> None:
    nightly = client.read_deployment_by_name("training/nightly")
    of_it = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[nightly.id]))

    def ended() -> FlowRun | None:
        runs = client.read_flow_runs(flow_run_filter=of_it)
        return next((run for run in runs if run.state and run.state.is_final()), None)

    run = eventually(ended, 240, "the cron run has ended")
    assert run.auto_scheduled
    assert run.state.is_completed(), run.state.message
    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
    assert sorted(task.state_name for task in tasks if task.name == "train") == ["Completed", "Preempted"]
    assert (served.root / "models/register/model.json").exists()
    tables = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["dice"])))
    assert '"structure": "hippocampus_anterior", "dice": 0.9, "cases": 4' in str(tables[0].data)


@pytest.mark.parametrize("parameters", [{"profile": "nonsense"}, {"wait": "perhaps"}, {"data": 7}])
def test_server_refuses_bad_parameters(client: SyncPrefectClient, parameters: dict[str, object]) -> None:
    nightly = client.read_deployment_by_name("training/nightly")
    with pytest.raises(PrefectHTTPStatusError) as refused:
        client.create_flow_run_from_deployment(nightly.id, parameters=parameters)
    assert refused.value.response.status_code in (409, 422)


def test_form_describes_every_parameter(client: SyncPrefectClient) -> None:
    for name in ("training/nightly", "promotion/promotion"):
        properties = client.read_deployment_by_name(name).parameter_openapi_schema["properties"]
        assert all(field.get("description") for field in properties.values()), name
