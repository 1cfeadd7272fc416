"""What `medseg promote`, `approve`, `refuse` and `withdraw` do with Prefect: start a promotion, answer it, wait for it.

A promotion is a deployment run, for only such a run can suspend. Where no worker serves this project yet, one is
started for the time of the command, on the queue `promotion` only. Whoever answers signs here, on the own terminal; the
run gets the signed statement and believes nothing else.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows import releasing, server, work_pool
from pipelines.release import decisions, statement
from pipelines.release.signers import NAMESPACES
from pipelines.release.statement import Statement
from pipelines.work import project
from pipelines.work.writing import replacing

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

DEPLOYMENT = "promotion/promotion"
PICKUP_TIMEOUT_S = 120  # a worker polls every 2-10 s and needs 3 s to start a flow; no answer means no worker


@dataclass(frozen=True)
class Standing:
    """Where a promotion stands: `waiting` for an answer, or ended, with the flow's own `message`."""

    run: UUID
    waiting: bool
    message: str


@dataclass(frozen=True)
class Promotion:
    """The run that waits, and the request in the ledger that it waits for an answer to."""

    run: UUID
    request: Statement


def promote(version: int, alias: str, key: Path | None) -> Promotion:
    """Ask for an alias, signed with the author's `key`, and start the run that waits for an answer.

    Raises ValueError with the reasons when the gate or the ledger's rules refuse it.
    """
    asked = releasing.request(version, alias, key)
    with _served() as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        run = client.create_flow_run_from_deployment(deployment.id, parameters={"version": version, "alias": alias})
        _wait(client, run.id)
    return Promotion(run.id, asked)


def answer(run: UUID, kind: str, meaning: str, key: Path) -> Standing:
    """Sign an answer with `key`, hand it to the run that waits, wait for its end. Raises ValueError as `promote`."""
    with _served() as client:
        draft = decisions.answer(_asked(client, run), kind, meaning)
        return _hand_over(client, run, decisions.signed(draft, key))


def answer_signed_elsewhere(run: UUID, signature: Path) -> Standing:
    """The same with the signature of what `to_sign` wrote."""
    with _served() as client:
        try:
            draft = statement.parse(_draft_of(run).read_text())
        except FileNotFoundError:
            raise ValueError(
                f'nothing was prepared for {run}; `medseg approve {run} --meaning "..."` writes what to sign'
            ) from None
        return _hand_over(client, run, draft.signed(signature.read_text()))


def to_sign(run: UUID, kind: str, meaning: str) -> tuple[Path, str]:
    """A file for `ssh-keygen -Y sign` where the key is not on this machine, and the namespace."""
    with _served() as client:
        draft = decisions.answer(_asked(client, run), kind, meaning)
    file = _draft_of(run).with_suffix(".txt")
    for path, text in ((_draft_of(run), draft.text), (file, draft.to_sign)):
        with replacing(path) as temporary:
            temporary.write_text(text)
    return file, NAMESPACES[draft.role]


def _draft_of(run: UUID) -> Path:
    return project.state_folder() / "to_sign" / f"{run}.json"


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


def _asked(client: "SyncPrefectClient", run_id: UUID) -> Statement:
    """The request that the run waits for an answer to."""
    parameters = _suspended(client, run_id).parameters
    return releasing.open_request(parameters["version"], parameters["alias"])


def _hand_over(client: "SyncPrefectClient", run_id: UUID, signed: Statement) -> Standing:
    """Checked before it is sent: the flow ends on an answer that does not hold."""
    run = _suspended(client, run_id)
    releasing.check(signed)
    answered = client.resume_flow_run(run.id, run_input={"signed": signed.text})
    if answered.status.value != "ACCEPT":
        raise ValueError(f"the answer is not accepted: {getattr(answered.details, 'reason', answered.status.value)}")
    return _wait(client, run.id)


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
