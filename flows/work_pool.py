"""The work pool of a project's deployments: what its runs may be, the worker that takes them, prefect.yaml applied.

Whoever may start a run may not say what program it is. Prefect's own template of a process pool lets every run bring
its command, environment and folder; this one has no variables at all, so that what a run brings is not used.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flows import programs

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

NAME = "medseg"
TEMPLATE: dict[str, Any] = {
    "job_configuration": {
        # Tethered to the worker: a worker that is killed takes its flow runs, and what they started, with it.
        "command": "python -m pipelines.work.tether python -m prefect.engine",
        "env": {},
        "labels": {},
        "stream_output": True,
    },
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}


@contextmanager
def worker(*queues: str) -> Iterator[subprocess.Popen[bytes]]:
    """Apply prefect.yaml, then a process worker on the pool, of the named queues only if any. Needs PREFECT_API_URL."""
    deploy()
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


def deploy() -> None:
    """The pool, and the deployments of prefect.yaml on it. Raises ValueError if Prefect refuses them."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        prepare(client)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "prefect.yaml"]
    with programs.logged("deploy", command) as process:
        if process.wait():
            log, line = programs.log_file("deploy"), programs.last_line("deploy")
            raise ValueError(f"prefect.yaml: Prefect refuses it, see {log}: {line}")
