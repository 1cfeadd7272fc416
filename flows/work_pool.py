"""The work pool of a project's deployments: what its runs may be, the worker that takes them, the server's set-up.

Whoever may start a run may not say what program it is. Prefect's own template of a process pool lets every run bring
its command, environment and folder; this one has no variables at all, so that what a run brings is not used.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flows import automations, deployments, gpu_slot, programs

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

NAME = "medseg"
ENVIRONMENT = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # flows/automations.py expects three in 90 s
    "PREFECT_CLIENT_MAX_RETRIES": "8",  # each twice as long after the one before: a server may be away for 8 minutes
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # what it says while its database restarts
}
TEMPLATE: dict[str, Any] = {
    "job_configuration": {
        # Tethered to the worker: a worker that is killed takes its flow runs, and what they started, with it.
        "command": "python -m pipelines.work.tether python -m prefect.engine",
        "env": ENVIRONMENT,
        "labels": {},
        "stream_output": True,
    },
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}


@contextmanager
def worker(*queues: str) -> Iterator[subprocess.Popen[bytes]]:
    """Set up, then a process worker on the pool, of the named queues only if any. Needs PREFECT_API_URL."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        set_up(client)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", NAME, "--type", "process"]
    command += ["--install-policy", "never", *(part for queue in queues for part in ("--work-queue", queue))]
    with programs.logged("worker", command, {"PREFECT_WORKER_QUERY_SECONDS": "2"}) as process:
        yield process


def prepare(client: "SyncPrefectClient") -> None:
    """Create the pool, or give one that an older version made the present template."""
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    try:
        client.create_work_pool(WorkPoolCreate(name=NAME, type="process", base_job_template=TEMPLATE))
    except ObjectAlreadyExists:
        client.update_work_pool(NAME, WorkPoolUpdate(base_job_template=TEMPLATE))


def set_up(client: "SyncPrefectClient") -> None:
    """All that this project has on a Prefect server; what is there is brought up to date. A second at most."""
    prepare(client)
    gpu_slot.prepare(client)
    deployments.apply(client, NAME)
    automations.apply(client)
