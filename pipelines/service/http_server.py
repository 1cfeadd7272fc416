"""The service as a whole: HTTP in this process, workers and the DIMSE receiver in their own, all gone when this one is.

serve(settings, announce)      until SIGINT or SIGTERM; `announce` is told the address
"""

import fcntl
import logging
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvicorn

from pipelines.service import api, readiness, recovery
from pipelines.service.access import Service, tokens_of
from pipelines.service.job import Ask
from pipelines.service.outbox import Outbox
from pipelines.service.patience import protocol
from pipelines.service.queue import Spool, spool_of
from pipelines.service.receiving import ToSpool
from pipelines.service.serve_settings import ServeSettings
from pipelines.service.watch import Watched
from pipelines.service.worker_processes import Workers
from pipelines.work import project

log = logging.getLogger(__name__)

LOCK_S = 15.0  # that what a killed service left gets to end
TIDY_S = 60.0
END_S = 10.0


def serve(settings: ServeSettings, announce: Callable[[str], None]) -> None:
    """Raises ValueError if it cannot begin: the address is taken, another service runs here, no version may answer."""
    with ExitStack() as stack:
        lock = stack.enter_context(_alone(project.state_folder() / "serve"))
        spool = spool_of(settings)
        readiness.forget(spool.folder)
        recovery.recover(spool)
        listening = stack.enter_context(_listening(settings))
        watched = Watched(spool, settings.watch, settings.limits) if settings.watch else None
        over = threading.Event()
        workers = Workers(spool, settings, lock)
        loops: list[Callable[[threading.Event], None]] = [workers.run, _tidying(spool, settings)]
        loops += [Outbox(spool, settings, name).run for name in settings.destinations]
        loops += [watched.run] if watched else []
        loops += [_receiving(settings, spool.folder)] if settings.dimse else []
        threads = [threading.Thread(target=loop, args=(over,), name="serve") for loop in loops]
        stack.callback(_end, over, threads)
        for thread in threads:
            thread.start()
        announce(f"http://{settings.host}:{listening.getsockname()[1]}")
        _http(Service(spool, settings, tokens_of(spool.folder)), listening, workers)


def _http(service: Service, listening: socket.socket, workers: Workers) -> None:
    limits = service.settings.limits
    config = uvicorn.Config(
        api.application(service), http=protocol(limits.header_s), ws="none", lifespan="off", log_level="warning",
        access_log=False, proxy_headers=False, server_header=False, limit_concurrency=limits.connections,
        timeout_keep_alive=max(1, int(limits.header_s)), timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=32 << 10,
    )  # fmt: skip
    server = uvicorn.Server(config)
    workers.on_refusal = lambda: setattr(server, "should_exit", True)
    server.run(sockets=[listening])
    if workers.refusal:
        raise ValueError(workers.refusal)


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """The lock of this service, which its workers inherit: whoever has it knows that no worker of another is left."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_S
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ValueError(f"another `medseg serve` runs in {project.root()}; end it first") from None
                time.sleep(0.1)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _listening(settings: ServeSettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((settings.host, settings.port))
        except OSError as error:
            raise ValueError(
                f"port {settings.port} of {settings.host} cannot be listened at ({error.strerror}); name another by "
                "--port"
            ) from None
        listening.listen(min(settings.limits.connections, 128))
        yield listening


def _receiving(settings: ServeSettings, folder: Path) -> Callable[[threading.Event], None]:
    """The DIMSE receiver in a process of its own, started again if it ends."""
    from pipelines.service import dimse

    assert settings.dimse is not None
    own = settings.dimse
    ask = Ask(own.to, own.model, own.modality, own.deliver)
    arguments = (own, folder / "dimse", ToSpool(settings, "dimse", ask))

    def loop(over: threading.Event) -> None:
        while not over.is_set():
            process = multiprocessing.get_context("spawn").Process(target=dimse.receive, args=arguments)
            process.start()
            while process.is_alive() and not over.wait(0.5):
                pass
            process.terminate()
            process.join()
            over.wait(0 if over.is_set() else 2)

    return loop


def _tidying(spool: Spool, settings: ServeSettings) -> Callable[[threading.Event], None]:
    def loop(over: threading.Event) -> None:
        while True:
            try:
                recovery.tidy(spool, settings.keep_inputs, settings.keep_results_days)
            except Exception as error:  # of the disk or database; the next round may do
                log.warning("tidying: %s", type(error).__name__)
            if over.wait(TIDY_S):
                return

    return loop


def _end(over: threading.Event, threads: list[threading.Thread]) -> None:
    over.set()
    deadline = time.monotonic() + END_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
