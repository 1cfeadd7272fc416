"""The slot of the GPU cluster: how many runs of deployments, of all projects of a server, may use GPUs at a time.

    with gpu_slot.taken(): ...          waits until one is free

It is a lease of a minute that the run renews, so that a killed run gives it back by itself. A server that is away
takes the lease, not the run: a training of weeks goes on, and what then starts beside it has to share.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger(__name__)

NAME = "gpu-cluster"
SLOTS = 1  # at first; people set it to what the cluster has, on Prefect's page under Concurrency
LEASE_S = 60.0  # the shortest that Prefect allows


def prepare(client: "SyncPrefectClient") -> None:
    """Create the limit; one that is there stays as it was set."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_global_concurrency_limit_by_name(NAME)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=NAME, limit=SLOTS))


@contextmanager
def taken() -> Iterator[None]:
    """Raises ValueError if the server has no such limit: without one anybody would be let in."""
    from prefect.concurrency._asyncio import ConcurrencySlotAcquisitionError
    from prefect.concurrency.sync import concurrency

    slot = concurrency(NAME, lease_duration=LEASE_S, strict=True, raise_on_lease_renewal_failure=False)
    try:
        slot.__enter__()
    except ConcurrencySlotAcquisitionError as error:
        raise ValueError(f"no slot of `{NAME}` ({error}); `medseg schedule on` creates it") from None
    try:
        yield
    finally:
        try:
            slot.__exit__(None, None, None)
        except httpx.HTTPError as error:  # the server is away, or took it while it was: it ends by itself
            log.warning("the slot of `%s` could not be given back (%s)", NAME, error)
