"""Runs that a killed command left RUNNING in the project's own Prefect database."""

from datetime import datetime

GONE = "its process is gone: killed, or this machine went down"


def mark_crashed(before: datetime) -> None:
    """Every run that claims to go on since before a moment at which nothing of this project was running."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    going = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    of_them = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=going)))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=of_them):
            if run.state is not None and run.state.timestamp < before:
                client.set_flow_run_state(run.id, Crashed(message=GONE), force=True)
