"""The deployments of a project: one typed table, and the code that makes them so on a Prefect server.

A table and no `prefect.yaml`: Prefect's file knows neither global limits nor automations, and applying it sets every
schedule and parameter back to what it says. Here set-up brings the program's own part up to date - code, form,
description - and leaves what people set on the server: times, what is switched on, parameters such as the threshold.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.work import project

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.flows import Flow

TAG = "medseg"  # of every run of ours; by it automations leave other people's runs on a shared server alone
SLUG = "usual"
ENOUGH_NEW_SCANS = 20
CANCEL_NEW, ENQUEUE = "CANCEL_NEW", "ENQUEUE"
LOCALTIME = Path("/etc/localtime")


@dataclass(frozen=True)
class Planned:
    """A deployment. `cron`: when, empty for on demand only. `collision`: what becomes of a run that comes while another
    one goes on; empty: no limit of Prefect's, since the project's lock decides and the run ends as `Skipped`."""

    flow: str
    name: str
    entrypoint: str
    description: str
    cron: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    collision: str = ""
    queue: str = "default"

    @property
    def full_name(self) -> str:
        return f"{self.flow}/{self.name}"


# Trainings have no limit of Prefect's: its lease ends a run whose server is away for a few minutes, four weeks in.
TABLE = (
    Planned(
        "ingest",
        "new-scans",
        "flows.ingestion.take_in",
        "New scans under data/raw into the manifest; nothing new means nothing done.",
        cron="15 * * * *",
        collision=CANCEL_NEW,
    ),
    Planned("training", "on-demand", "flows.training.training", "Every stale stage, and a registered version."),
    Planned(
        "training",
        "by-policy",
        "flows.training.training",
        "The same, once `new_scans` training scans have come since the newest version.",
        cron="0 2 * * *",
        parameters={"new_scans": ENOUGH_NEW_SCANS},
    ),
    Planned(
        "reevaluation",
        "weekly",
        "flows.reevaluation.reevaluation",
        "The champion on labelled scans that were held out after it was registered.",
        cron="0 5 * * 0",
        collision=CANCEL_NEW,
    ),
    Planned(
        "promotion",
        "promotion",
        "flows.promotion.promotion",
        "An author's signed request waits for an approver's signature, then the alias moves.",
        collision=ENQUEUE,
        queue="promotion",  # of its own: `medseg promote` serves it without starting a training
    ),
)
SCHEDULED = tuple(each for each in TABLE if each.cron)
RETIRED = ("training/nightly",)  # of older versions; by-policy takes its place


def apply(client: "SyncPrefectClient", pool: str) -> None:
    """Make them, or bring them up to date; schedules are paused until `medseg schedule on`."""
    from prefect.exceptions import ObjectNotFound

    for name in RETIRED:
        try:
            client.delete_deployment(client.read_deployment_by_name(name).id)
        except ObjectNotFound:
            continue
    for planned in TABLE:
        _apply(client, pool, planned, _flow_of(planned))


def _apply(client: "SyncPrefectClient", pool: str, planned: Planned, flow: "Flow[..., Any]") -> None:
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
    from prefect.exceptions import ObjectNotFound
    from prefect.utilities.callables import parameter_schema

    schema, parameters, schedules = parameter_schema(flow), dict(planned.parameters), _usual(planned)
    try:
        found = client.read_deployment_by_name(planned.full_name)
        parameters |= {name: value for name, value in found.parameters.items() if name in schema.properties}
        schedules = [_kept(each) for each in found.schedules] or schedules
    except ObjectNotFound:
        pass
    strategy = planned.collision and ConcurrencyLimitStrategy(planned.collision)
    client.create_deployment(
        flow_id=client.create_flow_from_name(planned.flow),
        name=planned.name,
        description=planned.description,
        entrypoint=planned.entrypoint,
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(project.root())}}],
        parameters=parameters,
        parameter_openapi_schema=schema.model_dump_for_openapi(),
        enforce_parameter_schema=True,
        schedules=schedules,
        concurrency_limit=1 if strategy else None,
        concurrency_options=ConcurrencyOptions(collision_strategy=strategy) if strategy else None,
        work_pool_name=pool,
        work_queue_name=planned.queue,
        tags=[TAG],
    )


def _flow_of(planned: Planned) -> "Flow[..., Any]":
    from prefect.flows import load_flow_from_entrypoint

    return load_flow_from_entrypoint(planned.entrypoint)


def _usual(planned: Planned) -> list[Any]:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    if not planned.cron:
        return []
    cron = CronSchedule(cron=planned.cron, timezone=timezone_here())
    return [DeploymentScheduleCreate(schedule=cron, active=False, slug=SLUG)]


def _kept(found: "DeploymentSchedule") -> Any:
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    same = {name: getattr(found, name) for name in ("schedule", "active", "parameters", "slug")}
    return DeploymentScheduleCreate(**same)


def timezone_here() -> str:
    """This machine's, by its name in the tz database; UTC where it has none."""
    return LOCALTIME.resolve().as_posix().partition("/zoneinfo/")[2] or "UTC"
