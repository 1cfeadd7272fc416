"""The main job: every stale stage of dvc.yaml, one by one, from raw scans to a registered version (Prefect flow).

Reads   dvc.yaml, params.yaml, data/raw; then reports/evaluate/metrics.json, models/register/model.json
Writes  what the stages write; Prefect's artifacts `progress`, `stages` and `dice` (tables), `evaluation` (sentences,
        links to MLflow and the report)
Run     medseg run        # here, on an embedded server; or the deployments `on-demand` and `by-policy`
Expect  nothing changed: about 5 s for the flow itself, and no stage runs but `inventory`
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import State
from pydantic import AfterValidator, Field, WithJsonSchema

from flows import in_turn, lock, outcomes, results
from pipelines.intake import raw_folder
from pipelines.params import profiles
from pipelines.release import growth, registration
from pipelines.training import curves
from pipelines.work import faults

RETRY_AFTER_S: list[float] = [5, 30, 120, 600]  # a server that restarts, a network that is mended

# The names are those of profiles/ when the deployment is made: the UI shows a list, the server refuses other names.
Profile = Annotated[str, AfterValidator(profiles.known), WithJsonSchema({"type": "string", "enum": profiles.names()})]

Change = Annotated[str, Field(pattern=r"^[a-z_]+(\.[A-Za-z0-9_]+)+=.+$")]


def _named() -> str:
    """Prefect's own names (`porcelain-caracara`) say nothing."""
    profile = flow_run.parameters.get("profile") or profiles.in_use() or "own parameters"
    return f"{profile}, {datetime.now():%Y-%m-%d %H:%M}"


# The descriptions under `Args` are what the form in Prefect's UI shows; it does not read pydantic's.
@flow(name="training", flow_run_name=_named, persist_result=False)
def training(
    profile: Profile | None = None,
    changes: list[Change] | None = None,
    data: Path | None = None,
    wait: bool = False,
    new_scans: Annotated[int, Field(ge=0, le=1_000_000)] = 0,
) -> dict[str, Any] | State[Any]:
    """From folders of scans to a registered model: each stage of dvc.yaml that is stale.

    Args:
        profile: put in place of params.yaml; empty: as it is
        changes: of single settings, on top, as KEY=VALUE, such as train.steps=20; they stay in params.yaml
        data: folder of scans to read, linked as data/raw; empty: as it is
        wait: wait for another run in this project to end, instead of leaving this one out
        new_scans: train only once so many training scans have come since the newest version; 0: in any case
    """
    try:
        with lock.held(wait) as held:
            prepare(profile, changes or [], data)
            return _run_stages(held, new_scans)
    except Exception as error:
        return outcomes.of(error)


def prepare(profile: str | None, changes: list[str], data: Path | None) -> None:
    """Put the parameters and the scans in place and validate them, before anything runs. Call inside the lock."""
    logger = get_run_logger()
    if data:
        raw_folder.refuse_unread(data, profiles.outlook(profile, changes).data.sources)
    if kept := profiles.use(profile, changes):
        logger.warning("params.yaml held changes of your own; they are kept in %s", kept)
    if data:
        raw_folder.link(data)


def _run_stages(held: lock.Lock, new_scans: int) -> dict[str, Any] | State[Any]:
    turn = in_turn.InTurn(held)
    if new_scans:
        if failed := turn.up_to("ingest"):
            return failed
        found = growth.since_newest()
        if found.version and found.new < new_scans:
            return outcomes.skipped(f"{found.told}; training by policy begins at {new_scans}")
        get_run_logger().info("%s: training", found.told)
    if failed := turn.up_to():
        return failed
    retries = len(RETRY_AFTER_S) if in_turn.of_deployment() else 0  # at a terminal somebody waits
    result = registered.with_options(retries=retries)()
    turn.finish()
    create_table_artifact(result["dice"], key="dice", description=results.headline(result))
    create_markdown_artifact("\n\n".join([*result["told"], *results.links(result)]), key="evaluation")
    return result


def _infrastructure(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether to try again: only what the servers or the network are to blame for."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and faults.is_infrastructure(error)


@task(
    task_run_name="version",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_delay_seconds=RETRY_AFTER_S,
    retry_condition_fn=_infrastructure,
)
def registered() -> dict[str, Any]:
    """Curves delivered and a version made in MLflow; the result that the run ends with."""
    curves.deliver_all()
    version = registration.make_version()
    result = results.collect()
    get_run_logger().info("%s version %s, alias %s", result["name"], version, registration.CANDIDATE)
    return result
