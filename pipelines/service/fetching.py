"""What a PACS holds, instead of an upload."""

import shutil
from pathlib import Path

import anyio
from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

from pipelines.service import destinations
from pipelines.service.access import Service
from pipelines.service.peers import Destination, PeerBusyError, PeerRefusedError
from pipelines.service.tokens import Caller
from pipelines.service.uploads import MIB


async def fetched(
    request: Request, service: Service, caller: Caller, peer: Destination, study: str, series: str
) -> Path:
    """A folder of the queue's with the files. `study`: may be empty where `series` is not; the PACS knows it.

    Raises HTTPException 422 or 502, or QueueFullError.
    """
    limits = service.settings.limits
    with service.upload(caller):
        folder = await run_in_threadpool(service.spool.arriving, caller.name, caller.limit)
        found = destinations.WantedStudy(study, series, folder, limits.upload_mib * MIB, limits.files)
        try:
            await anyio.to_thread.run_sync(destinations.fetch, peer, found, limiter=request.app.state.fetches)
        except (PeerRefusedError, PeerBusyError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise HTTPException(422 if isinstance(error, PeerRefusedError) else 502, str(error)) from None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return folder
