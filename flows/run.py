"""`medseg run`: the training flow in this process, on an embedded Prefect server, in the project's lock.

Run     medseg run [--profile P] [--set KEY=VALUE] [--data DIR]
Expect  nothing changed: about 10 s, of which the server's start takes 3
"""

import os
from pathlib import Path
from typing import Any

from flows import lock, server
from pipelines.intake import raw_folder
from pipelines.params import profiles
from pipelines.release import tracking

# The terminal shows stage and line; who said it when, in full, is in the Prefect UI.
CONSOLE = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s | %(task_run_name)-10s | %(message)s",
}


def run(profile: str | None, changes: list[str], data: Path | None, wait: bool) -> dict[str, Any]:
    """What flows.results.collect gives. Raises ValueError with the failing stage's own line."""
    with lock.held(wait):
        profiles.proposed(profile, changes)  # refused here, before a server starts
        tracking.require_answer()  # so is an MLflow that is away, and not after four weeks of training
        for key, value in CONSOLE.items():
            os.environ.setdefault(key, value)
        with server.reachable() as ready:
            from flows.training import training  # seconds, while the server starts

            ready()
            if data:  # not as the flow's parameter: Prefect would keep the folder's name, which may be a patient's
                raw_folder.link(data)
            state = training(profile=profile, changes=changes, return_state=True)
            if not state.is_completed():
                raise ValueError(state.message or f"the run ended as {state.name}")
            result = state.result()
            assert isinstance(result, dict)
            return result
