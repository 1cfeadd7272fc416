"""What the Prefect server does by itself for our runs: end those whose process is gone, and tell people.

A run of a deployment says every 30 s that it lives (the least that Prefect allows). 90 s without, and it counts as
crashed, which frees what it held. What needs a person is posted as JSON to the address in MEDSEG_WEBHOOK.
"""

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.deployments import TAG
from pipelines.work import environment

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events import AutomationCore

ZOMBIES, NOTICES, WEBHOOK = "medseg: end runs without a process", "medseg: tell people", "medseg-webhook"
SILENT_S = 90
GONE = "its process said nothing for 90 s: killed, or its machine went down; the next run goes on from here"
# By name of the state: Preempted is a training whose resumes are used up, Worse a champion on new scans, Suspended a
# promotion that waits for an approver, Late a run that no worker takes.
TOLD = ("Failed", "Crashed", "TimedOut", "Preempted", "Worse", "Suspended", "Late")
ENDS = ("Completed", "Skipped", "Cancelled", "Cancelling", *TOLD[:5], "Suspended")
OURS: dict[str, Any] = {"prefect.resource.id": f"prefect.tag.{TAG}"}
RUNS: dict[str, Any] = {"prefect.resource.id": "prefect.flow-run.*"}
PAYLOAD = json.dumps(
    {
        "text": "{{ flow.name }} ({{ flow_run.name }}): {{ flow_run.state.name }}",
        "flow": "{{ flow.name }}",
        "run": "{{ flow_run.name }}",
        "state": "{{ flow_run.state.name }}",
        "page": "{{ flow_run|ui_url }}",
    }
)


def apply(client: "SyncPrefectClient") -> None:
    """Make them, or bring them up to date. Without MEDSEG_WEBHOOK nobody is told, and what told before goes."""
    _put(client, ZOMBIES, _zombies())
    address = environment.read().webhook
    _put(client, NOTICES, _notices(_webhook(client, address.get_secret_value())) if address else None)


def _put(client: "SyncPrefectClient", name: str, wanted: "AutomationCore | None") -> None:
    found = client.read_automations_by_name(name)
    if wanted is None or len(found) > 1:
        for each in found:
            client.delete_automation(each.id)
        found = []
    if wanted and found:
        client.update_automation(found[0].id, wanted)
    elif wanted:
        client.create_automation(wanted)


def _zombies() -> "AutomationCore":
    from prefect.client.schemas.objects import StateType
    from prefect.events import AutomationCore, ChangeFlowRunState, EventTrigger, Posture

    return AutomationCore(
        name=ZOMBIES,
        description="A run whose process is gone is Crashed after 90 s, and what it held is free.",
        trigger=EventTrigger(
            match=RUNS,
            match_related=OURS,
            for_each={"prefect.resource.id"},
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in ENDS)},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_S),
        ),
        actions=[ChangeFlowRunState(name=None, state=StateType.CRASHED, message=GONE, force=False)],
    )


def _notices(webhook: UUID) -> "AutomationCore":
    from prefect.events import AutomationCore, CallWebhook, EventTrigger, Posture

    return AutomationCore(
        name=NOTICES,
        description="What needs a person, posted to MEDSEG_WEBHOOK.",
        trigger=EventTrigger(
            match=RUNS,
            match_related=OURS,
            for_each={"prefect.resource.id"},
            expect={f"prefect.flow-run.{state}" for state in TOLD},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[CallWebhook(block_document_id=webhook, payload=PAYLOAD)],
    )


def _webhook(client: "SyncPrefectClient", address: str) -> UUID:
    """The block that keeps the address, encrypted, on the server."""
    from prefect.blocks.webhook import Webhook
    from prefect.types import SecretDict
    from pydantic import SecretStr

    if not address.startswith(("http://", "https://")):
        raise ValueError("MEDSEG_WEBHOOK: must begin with https:// (or http://); set it so, or unset it")
    block = Webhook(url=SecretStr(address), headers=SecretDict({"Content-Type": "application/json"}))
    return UUID(str(block.save(WEBHOOK, overwrite=True, client=None)))
