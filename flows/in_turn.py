"""The stages of one run, one after the other, each a Prefect task; what is stale is asked once.

    turn = InTurn(held)
    turn.up_to("ingest")         None, or the state that the run ends in
    turn.up_to()                 the rest

What the run's page shows of it: how far it is, and in the end a table of all stages with their seconds.
"""

import logging
import time
from contextlib import nullcontext
from typing import Any

import httpx
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Failed, State

from flows import dvc, gpu_slot, lock, stage_task

log = logging.getLogger(__name__)

RESUMES, RESUME_AFTER_S = 10, 30  # who takes a machine away says so once, and does it within seconds
ON_GPUS = ("pretrain", "train", "evaluate")
NOTHING_CHANGED = "nothing changed"


class InTurn:
    """To be made inside the project's lock."""

    def __init__(self, held: lock.Lock) -> None:
        self._held, self._stages = held, dvc.declared()
        self._left = [stage.name for stage in self._stages if not stage.always_changed]
        self._due: set[str] | None = None
        self._page = _Page(len(self._left))

    def up_to(self, last: str = "") -> State[Any] | None:
        """Bring up to date what is not yet; all stages, unless a `last` one is named."""
        if failed := self._ask():
            return failed
        assert self._due is not None
        while self._left:
            name = self._left.pop(0)
            self._held.say(due=sorted(self._due))
            if name in self._due:
                if failed := self._run(name):
                    return failed
                self._due.discard(name)
            else:
                get_run_logger().info("%s: nothing changed", name)
                self._page.add(name, NOTHING_CHANGED, 0.0)
            if name == last:
                break
        self._held.say(due=sorted(self._due), stage=None)
        return None

    def finish(self) -> None:
        """The table on the run's page."""
        self._page.finish()

    def _ask(self) -> State[Any] | None:
        """The stages that are asked at every run come first: the rest depends on them."""
        if self._due is not None:
            return None
        for name in (stage.name for stage in self._stages if stage.always_changed):
            if failed := _failure(name):
                return failed
        self._due = dvc.stale()
        return None

    def _run(self, name: str) -> State[Any] | None:
        begun = time.monotonic()
        failed = _failure(name)
        self._page.add(name, failed.name or "Failed" if failed else "made", time.monotonic() - begun)
        if failed:
            self._page.finish()
        return failed


def of_deployment() -> bool:
    """Was this run started by a deployment? Not from prefect.runtime: that asks the server, which may have gone."""
    run = FlowRunContext.get()
    return run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None


def _failure(name: str) -> State[Any] | None:
    """None if the stage came through. A training that was preempted goes on in a deployment's run, a bounded number of
    times; who started one by hand is told to start it again."""
    with gpu_slot.taken() if name in ON_GPUS and of_deployment() else nullcontext():
        state: State[Any] = stage_task.bring_up_to_date(name, return_state=True)
    for _ in range(RESUMES if of_deployment() else 0):
        if state.name != stage_task.PREEMPTED:
            break
        get_run_logger().warning("%s; it does in %d s", state.message, RESUME_AFTER_S)
        time.sleep(RESUME_AFTER_S)
        with gpu_slot.taken():
            state = stage_task.bring_up_to_date(name, return_state=True)
    return None if state.is_completed() else Failed(name=state.name, message=state.message)


class _Page:
    """Of a run: progress, then the table. A server that went away is asked once and no more; the stages do not need
    it."""

    def __init__(self, stages: int) -> None:
        self._rows: list[dict[str, Any]] = []
        self._stages, self._away = stages, False
        self._bar: Any = None

    def add(self, stage: str, outcome: str, seconds: float) -> None:
        self._rows.append({"stage": stage, "outcome": outcome, "seconds": round(seconds, 1)})
        if outcome != NOTHING_CHANGED:  # each call costs a tenth of a second
            self._try(self._show_progress)

    def finish(self) -> None:
        self._try(lambda: create_table_artifact(self._rows, key="stages", description="The stages of this run."))

    def _show_progress(self) -> None:
        percent = 100.0 * len(self._rows) / self._stages
        if self._bar is None:
            self._bar = create_progress_artifact(percent, key="progress", description="Stages done.")
        else:
            update_progress_artifact(self._bar, progress=percent)

    def _try(self, call: Any) -> None:
        if self._away:
            return
        try:
            call()
        except httpx.HTTPError as error:
            self._away = True
            log.warning("the run's page stays as it is: the Prefect server does not answer (%s)", error)
