"""The main job: every stale stage of dvc.yaml, one by one, from raw scans to a registered version (Prefect flow).

Reads   dvc.yaml, params.yaml, data/raw; then reports/evaluate/metrics.json, models/register/model.json
Writes  what the stages write; Prefect's artifacts `dice` (a table) and `evaluation` (sentences, where the report is)
Run     medseg run        # here, on an embedded server; or the deployment `nightly` in prefect.yaml
Expect  nothing changed: about 5 s for the flow itself, and no stage runs but `inventory`
"""

import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Failed, State
from pydantic import AfterValidator, WithJsonSchema

from flows import dvc, lock, results, stage_task
from pipelines.intake import raw_folder
from pipelines.params import profiles
from pipelines.release import registration
from pipelines.training import curves
from pipelines.work import faults

RESUMES, RESUME_AFTER_S = 10, 30  # who takes a machine away says so once, and does it within seconds

# The names are those of profiles/ when the deployment is made: the UI shows a list, the server refuses other names.
Profile = Annotated[str, AfterValidator(profiles.known), WithJsonSchema({"type": "string", "enum": profiles.names()})]


def _named() -> str:
    """Prefect's own names (`porcelain-caracara`) say nothing."""
    profile = flow_run.parameters.get("profile") or profiles.in_use() or "own parameters"
    return f"{profile}, {datetime.now():%Y-%m-%d %H:%M}"


# The descriptions under `Args` are what the form in Prefect's UI shows; it does not read pydantic's.
@flow(name="training", flow_run_name=_named, persist_result=False)
def training(
    profile: Profile | None = None, changes: list[str] | None = None, data: Path | None = None, wait: bool = False
) -> dict[str, Any] | State[Any]:
    """From folders of scans to a registered model: each stage of dvc.yaml that is stale.

    Args:
        profile: put in place of params.yaml; empty: as it is
        changes: of single settings, on top, as KEY=VALUE, such as train.steps=20; they stay in params.yaml
        data: folder of scans to read, linked as data/raw; empty: as it is
        wait: wait for another run in this project to end, instead of failing
    """
    try:
        with lock.held(wait) as held:
            prepare(profile, changes or [], data)
            return _run_stages(held)
    except Exception as error:
        if (line := faults.told(error)) is None:
            raise
        return Failed(message=line)


def prepare(profile: str | None, changes: list[str], data: Path | None) -> None:
    """Put the parameters and the scans in place and validate them, before anything runs. Call inside the lock."""
    logger = get_run_logger()
    if data:
        raw_folder.refuse_unread(data, profiles.outlook(profile, changes).data.sources)
    if kept := profiles.use(profile, changes):
        logger.warning("params.yaml held changes of your own; they are kept in %s", kept)
    if data:
        raw_folder.link(data)


def _run_stages(held: lock.Lock) -> dict[str, Any] | State[Any]:
    logger, declared = get_run_logger(), dvc.declared()
    for name in (stage.name for stage in declared if stage.always_changed):  # asked first: the rest depends on it
        if failed := _failure(name):
            return failed
    due = dvc.stale()
    for stage in declared:
        held.say(due=sorted(due))
        if stage.name in due:
            if failed := _failure(stage.name):
                return failed
            due.discard(stage.name)
        elif not stage.always_changed:
            logger.info("%s: nothing changed", stage.name)
    held.say(due=[], stage=None)
    curves.deliver_all()
    version = registration.make_version()
    result = results.collect()
    logger.info("%s version %s, alias %s", result["name"], version, registration.CANDIDATE)
    create_table_artifact(result["dice"], key="dice", description=results.headline(result))
    create_markdown_artifact("\n\n".join([*result["told"], results.REPORT]), key="evaluation")
    return result


def _failure(name: str) -> State[Any] | None:
    """None if the stage came through. A training that was preempted goes on in a deployment's run, a bounded number of
    times; who started one by hand is told to start it again."""
    state: State[Any] = stage_task.bring_up_to_date(name, return_state=True)
    run = FlowRunContext.get()  # not prefect.runtime.deployment: it asks the server, which may have gone
    of_deployment = run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None
    for _ in range(RESUMES if of_deployment else 0):
        if state.name == stage_task.PREEMPTED:
            get_run_logger().warning("%s; it does in %d s", state.message, RESUME_AFTER_S)
            time.sleep(RESUME_AFTER_S)
            state = stage_task.bring_up_to_date(name, return_state=True)
    return None if state.is_completed() else Failed(name=state.name, message=state.message)
