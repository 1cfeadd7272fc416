"""The service's HTTP alone, in this process, without workers: what strangers meet before anything is segmented."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn

from pipelines.service import api
from pipelines.service.access import Service, tokens_of
from pipelines.service.patience import protocol
from pipelines.service.queue import Bounds, Spool
from pipelines.service.serve_settings import ServeLimits, ServeSettings

LIMITS = ServeLimits(
    upload_mib=2, unpacked_mib=8, files=20, queue=40, per_token=20, connections=60, header_s=1.0, silence_s=1.0,
    upload_s=5.0, free_mib=0,
)  # fmt: skip


@dataclass
class Door:
    service: Service
    host: str
    port: int
    token: str

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=60, verify=False)


def make_service(folder: Path, limits: ServeLimits = LIMITS) -> Service:
    spool = Spool(folder / "serve", bounds=Bounds(limits.queue, limits.per_token))
    return Service(spool, ServeSettings(limits=limits), tokens_of(spool.folder))


@contextmanager
def open_door(folder: Path, limits: ServeLimits = LIMITS) -> Iterator[Door]:
    service = make_service(folder, limits)
    config = uvicorn.Config(
        api.application(service), host="127.0.0.1", port=0, http=protocol(limits.header_s), ws="none", lifespan="off",
        log_level="critical", access_log=False, limit_concurrency=limits.connections, timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Door(service, "127.0.0.1", port, service.tokens.add("stranger"))
    finally:
        server.should_exit = True
        thread.join()
