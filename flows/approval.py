"""`medseg promote` and `medseg approve`: start a promotion, sign it, wait for its end, through the Prefect API.

A promotion is a deployment run, for only such a run can suspend. Where no worker serves this project yet, one is
started for the time of the command, on the queue `promotion` only.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows import server, work_pool

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

DEPLOYMENT = "promotion/promotion"
PICKUP_TIMEOUT_S = 120  # a worker polls every 2-10 s and needs 3 s to start a flow; no answer means no worker


@dataclass(frozen=True)
class Signature:
    """What becomes the flow's Approval."""

    reviewer: str
    reason: str
    approve: bool = True


@dataclass(frozen=True)
class Standing:
    """Where a promotion stands: `waiting` for a signature, or ended, with the flow's own `message`."""

    run: UUID
    waiting: bool
    message: str


def promote(version: int, alias: str, signature: Signature | None = None) -> Standing:
    """Start a promotion and wait until it suspends; with a `signature`, sign it and wait for its end.

    Raises ValueError with the reasons when it is refused by the gate or the signature is not valid.
    """
    with _served() as client:
        if signature:
            _validate(signature)
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        run = client.create_flow_run_from_deployment(deployment.id, parameters={"version": version, "alias": alias})
        standing = _wait(client, run.id)
        if signature and standing.waiting:
            standing = _sign(client, run.id, signature)
        return standing


def approve(run: UUID, signature: Signature) -> Standing:
    """Sign a suspended promotion and wait for its end. Raises ValueError as `promote` does."""
    with _served() as client:
        return _sign(client, run, signature)


@contextmanager
def _served() -> Iterator["SyncPrefectClient"]:
    """A client of a Prefect server that has a worker for promotions."""
    others = bool(os.environ.get("PREFECT_API_URL") or server.running_ui())
    with server.reachable() as ready:
        from prefect.client.orchestration import get_client

        ready()
        with get_client(sync_client=True) as client:
            if others:
                yield client
            else:
                with work_pool.worker("promotion"):
                    yield client


def _sign(client: "SyncPrefectClient", run_id: UUID, signature: Signature) -> Standing:
    _validate(signature)
    run = _suspended(client, run_id)
    answer = client.resume_flow_run(run.id, run_input=asdict(signature))
    if answer.status.value != "ACCEPT":
        raise ValueError(f"the signature is not accepted: {getattr(answer.details, 'reason', answer.status.value)}")
    return _wait(client, run.id)


def _validate(signature: Signature) -> None:
    """Before it is sent: the flow ends on a signature that is not valid."""
    from flows.promotion import Approval, validate

    validate(Approval.model_construct(**asdict(signature)))


def _suspended(client: "SyncPrefectClient", run_id: UUID) -> "FlowRun":
    """The run, once it can be resumed: the state is set a moment before the form is saved."""
    from prefect.exceptions import ObjectNotFound

    try:
        run = client.read_flow_run(run_id)
    except ObjectNotFound:
        raise ValueError(f"no promotion {run_id}; `medseg promote VERSION --to ALIAS` starts one") from None
    if run.state is None or not run.state.is_paused():
        ended = f"it is {run.state.name}: {run.state.message}" if run.state else "it has not started"
        raise ValueError(f"promotion {run_id} does not wait for a signature; {ended}")
    keyset: Any = run.state.state_details.run_input_keyset
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            client.read_flow_run_input(run_id, keyset["schema"])
        except (ObjectNotFound, AttributeError):
            time.sleep(0.1)
        else:
            break
    return run


def _wait(client: "SyncPrefectClient", run_id: UUID) -> Standing:
    deadline = time.monotonic() + PICKUP_TIMEOUT_S
    while True:
        state = client.read_flow_run(run_id).state
        if state is not None and state.is_paused():
            return Standing(run_id, True, state.message or "")
        if state is not None and state.is_final():
            if not state.is_completed():
                raise ValueError(state.message or f"the promotion ended as {state.name}")
            return Standing(run_id, False, state.message or "")
        if state is not None and (state.is_running() or state.is_pending()):
            deadline = time.monotonic() + PICKUP_TIMEOUT_S
        if time.monotonic() > deadline:
            _cancel(client, run_id)
            raise ValueError(
                f"no worker took promotion {run_id} within {PICKUP_TIMEOUT_S} s; it is cancelled, and nothing moved. "
                f"Start a worker (`medseg ui`, or `prefect worker start --pool {work_pool.NAME}`) and promote again"
            )
        time.sleep(0.3)


def _cancel(client: "SyncPrefectClient", run_id: UUID) -> None:
    """For good: a worker that comes later must not start what nobody waits for."""
    from prefect.states import Cancelled

    client.set_flow_run_state(run_id, Cancelled(message="no worker took it in time"), force=True)
