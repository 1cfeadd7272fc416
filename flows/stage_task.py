"""Bring ONE DVC stage up to date, as a Prefect task. DVC alone decides what is fresh; Prefect caches nothing."""

import logging
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Failed, State

from flows import dvc
from pipelines.work import faults, preemption

PREEMPTED = "Preempted"  # name of the state that a task, and a run, has which goes on later


def _without_empty_trace(record: logging.LogRecord) -> bool:
    """Prefect logs a returned Failed state as if an exception were at hand, and so prints `NoneType: None` below it."""
    if record.exc_info and record.exc_info[0] is None:
        record.exc_info = None
    return True


logging.getLogger("prefect.task_runs").addFilter(_without_empty_trace)


@task(task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def bring_up_to_date(stage: str) -> dict[str, str] | State[Any]:
    """Run `stage`, or fetch its outputs from DVC's cache where its inputs are known. Returns each output's hash."""
    preemption.forget()
    try:
        dvc.reproduce(stage, get_run_logger().info)
        return dvc.output_hashes(stage)
    except Exception as error:
        if preemption.noted(stage):
            return Failed(name=PREEMPTED, message=preemption.message(stage))
        if (line := faults.told(error)) is None:
            raise
        return Failed(message=line)  # a state, not an exception: one line, no trace, for what is not our bug
