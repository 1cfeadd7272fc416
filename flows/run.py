"""`medseg run`: the training flow in this process, on an embedded Prefect server, in the project's lock.

Run     medseg run [--profile P] [--set KEY=VALUE] [--data DIR]
Expect  nothing changed: about 10 s, of which the server's start takes 3
"""

import logging
import os
import time
from pathlib import Path
from typing import Any

import httpx  # Prefect's client

from flows import cost, dvc, lock, results, server
from pipelines.intake import raw_folder
from pipelines.params import profiles
from pipelines.release import registration, tracking
from pipelines.training import curves
from pipelines.work import preemption
from pipelines.work.garbage import uncollected

log = logging.getLogger(__name__)

# The terminal shows stage and line; who said it when, in full, is in the Prefect UI.
CONSOLE = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s | %(task_run_name)-10s | %(message)s",
}


def run(profile: str | None, changes: list[str], data: Path | None, wait: bool) -> dict[str, Any]:
    """What flows.results.collect gives. Raises ValueError with the failing stage's own line, PreemptedError
    if training goes on with the same command."""
    started = time.time()
    with lock.held(wait):
        settings = profiles.outlook(profile, changes)  # refused here, before a server starts
        if data:
            raw_folder.refuse_unread(data, settings.data.sources)
        tracking.require_answer()  # so is an MLflow that is away, and not after four weeks of training
        for key, value in CONSOLE.items():
            os.environ.setdefault(key, value)
        with server.reachable() as ready:
            with uncollected():
                from flows import stage_task
                from flows.training import training  # seconds, while the server starts

            ready()
            if data:  # not as the flow's parameter: Prefect would keep the folder's name, which may be a patient's
                raw_folder.link(data)
            try:
                state = training(profile=profile, changes=changes, return_state=True)
            except httpx.TransportError as error:
                return _without_prefect(error)
            if state.name == stage_task.PREEMPTED:
                raise preemption.PreemptedError(state.message)
            if not state.is_completed():
                raise ValueError(state.message or f"the run ended as {state.name}")
            result = state.result()
            assert isinstance(result, dict)
            return {**result, "cost": cost.total(cost.noted(since=started)).line()}


def _without_prefect(error: Exception) -> dict[str, Any]:
    """The result of a run whose server went away, if it came to its end: stages report to it, but do not need it."""
    if not dvc.stale():
        curves.deliver_all()
        registration.make_version()
        log.warning("the Prefect server went away, so its page does not show how this run ended; all stages did")
        return results.collect()
    raise ValueError(f"the Prefect server went away ({error}); the same command goes on from here")
