"""`medseg schedule`: what runs by itself in this project, switched on and off. Off until somebody says `on`.

The switch lies on the Prefect server - the one of PREFECT_API_URL, of the running `medseg ui`, or this project's own
database - and stays as it is over restarts. Runs happen while a server and a worker are up: `medseg ui` is both.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, time
from time import sleep
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from flows import deployments, gpu_slot, server, work_pool
from flows.deployments import Planned

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

TRAINING = "training/by-policy"
SCHEDULER_S = 2.0  # a pass of Prefect's scheduler that began before the switch has ended by then


def switch(active: bool, training_at: str = "") -> dict[str, Any]:
    """All schedules on or off; what `look` says. `training_at`: HH:MM, when the nightly training begins."""
    at = _time_of_day(training_at) if training_at else None
    with _client() as client:
        cron = _daily(at) if at else None
        work_pool.set_up(client)
        changed = []
        for planned in deployments.SCHEDULED:
            deployment = client.read_deployment_by_name(planned.full_name)
            for each in deployment.schedules:
                wanted = cron if cron and planned.full_name == TRAINING else each.schedule
                client.update_deployment_schedule(deployment.id, each.id, active=active, schedule=wanted)
                if each.active and (not active or wanted != each.schedule):
                    changed.append(deployment)
        drop_due(client, changed, at if active else None)
        return _status(client)


def drop_due(client: "SyncPrefectClient", changed: list["DeploymentResponse"], at: time | None) -> None:
    """Runs that are due by schedules as they were, all but those of `at`: Prefect drops those that are there, but its
    scheduler, which reads schedules and then writes runs, may have read them before."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import FlowRun, StateType

    if not changed:
        return
    sleep(SCHEDULER_S)
    of_them = DeploymentFilter(id=DeploymentFilterId(any_=[each.id for each in changed]))
    scheduled = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    zone = ZoneInfo(deployments.timezone_here())

    def stays(run: FlowRun) -> bool:
        due = run.next_scheduled_start_time
        if not run.auto_scheduled or run.run_count or due is None:  # a person's, or one that goes on
            return True
        return at is not None and due.astimezone(zone).time().replace(second=0) == at

    while late := [
        run for run in client.read_flow_runs(flow_run_filter=scheduled, deployment_filter=of_them) if not stays(run)
    ]:
        for run in late:  # the server gives 200 at a time
            client.delete_flow_run(run.id)


def look() -> dict[str, Any]:
    """Keys: `server`, `worker` (whether one is online), `gpu_cluster` (slots, taken), `deployments`: a row each with
    name, active, cron, timezone, next, last (state's name), parameters."""
    with _client() as client:
        return _status(client)


def _time_of_day(said: str) -> time:
    try:
        return datetime.strptime(said, "%H:%M").time()
    except ValueError:
        raise ValueError(f"--training-at {said}: not a time of day; write HH:MM, as in 02:00") from None


def _daily(at: time) -> Any:
    """Not before the server is known: Prefect reads its address when it is first imported."""
    from prefect.client.schemas.schedules import CronSchedule

    return CronSchedule(cron=f"{at.minute} {at.hour} * * *", timezone=deployments.timezone_here())


@contextmanager
def _client() -> Iterator["SyncPrefectClient"]:
    with server.reachable() as ready:
        from prefect.client.orchestration import get_client

        ready()
        with get_client(sync_client=True) as client:
            yield client


def _status(client: "SyncPrefectClient") -> dict[str, Any]:
    from prefect.exceptions import ObjectNotFound

    rows = []
    for planned in deployments.TABLE:
        try:
            rows.append(_row(client, planned, client.read_deployment_by_name(planned.full_name)))
        except ObjectNotFound:
            rows.append({"name": planned.full_name, "active": False, "cron": planned.cron, "set_up": False})
    return {
        "server": str(client.api_url),
        "worker": _worker(client),
        "gpu_cluster": _slots(client),
        "deployments": rows,
    }


def _row(client: "SyncPrefectClient", planned: Planned, found: "DeploymentResponse") -> dict[str, Any]:
    schedule = next(iter(found.schedules), None)
    cron = schedule.schedule if schedule else None
    return {
        "name": planned.full_name,
        "set_up": True,
        "active": bool(schedule and schedule.active and not found.paused),
        "cron": getattr(cron, "cron", ""),
        "timezone": getattr(cron, "timezone", ""),
        "parameters": found.parameters,
        **_runs(client, found),
    }


def _runs(client: "SyncPrefectClient", found: "DeploymentResponse") -> dict[str, Any]:
    """`next`: when the next run is due. `last`: name and time of the newest one that ended."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    of_it = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
    runs = client.read_flow_runs(deployment_filter=of_it, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=100)
    due = [run.next_scheduled_start_time for run in runs if run.state and run.state.is_scheduled()]
    ended = next((run.state for run in runs if run.state and run.state.is_final()), None)
    return {
        "next": min((each.isoformat() for each in due if each), default=None),
        "last": ended and {"state": ended.name, "at": ended.timestamp.isoformat(), "message": ended.message},
    }


def _worker(client: "SyncPrefectClient") -> bool:
    from prefect.exceptions import ObjectNotFound

    path = {"work_pool_name": work_pool.NAME}
    try:
        found = client.request("POST", "/work_pools/{work_pool_name}/workers/filter", path_params=path, json={})
    except ObjectNotFound:
        return False
    return any(each["status"] == "ONLINE" for each in found.json())


def _slots(client: "SyncPrefectClient") -> dict[str, int] | None:
    from prefect.exceptions import ObjectNotFound

    try:
        limit = client.read_global_concurrency_limit_by_name(gpu_slot.NAME)
    except ObjectNotFound:
        return None
    return {"slots": limit.limit, "taken": limit.active_slots}
