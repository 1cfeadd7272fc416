"""How the launchers of many machines start their ranks together, start them again together, and end together.

Machine 0's launcher holds a store at the rendezvous for as long as it lives. In it stands the number of the attempt.
Who begins one signs it, and starts ranks when all have signed. Who lost its ranks, or comes back and finds that it had
signed already, raises the number. A thread of each launcher looks at it and, when it was raised, ends the ranks that
wait for those that are gone. If machine 0's launcher is lost, all lose the store and wait for it to come back.
"""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from torch.distributed import DistError, TCPStore
from torch.distributed.elastic.multiprocessing.api import SignalException

from pipelines.training.nodes import Nodes

log = logging.getLogger(__name__)

COME_S = 600.0  # for all machines to be there
CONNECT_S, STORE_S = 5.0, 30.0  # for machine 0 to be reached, and to answer
POLL_S = 0.2
LINGER_S = 20.0  # that machine 0 waits for the others to see the end
ATTEMPT, OVER = "attempt", "over"


@dataclass(frozen=True)
class Start:
    """`number`: of the attempt. `port`: on machine 0, for the ranks of this attempt."""

    number: int
    port: int


class Meeting:
    """Of one launcher. `says`: what must be the same on every machine (name -> value), or nobody starts."""

    def __init__(self, nodes: Nodes, says: dict[str, object], patience_s: float) -> None:
        self.nodes, self.says, self.patience_s = nodes, says, patience_s
        self.store: TCPStore | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType) -> None:
        """Tell the others how it ended here. Machine 0 goes last: with it goes the store."""
        if self.store is None:
            return
        code = error.code if isinstance(error, SystemExit) else 1
        with suppress(DistError, SignalException):  # a request to stop does not change how it ended
            if error is not None:
                self.store.compare_set(OVER, "", f"{code} {self.nodes.rank}")
            self.store.set(f"left {self.nodes.rank}", "")
            deadline = time.monotonic() + LINGER_S
            while self.nodes.rank == 0 and self._missing("left") and time.monotonic() < deadline:
                time.sleep(POLL_S)

    def attend(self) -> Start:
        """Wait until all machines are ready for the next attempt.

        Raises ValueError if some do not come or are not alike, SystemExit if training ended elsewhere.
        """
        deadline = time.monotonic() + COME_S + self.patience_s
        told = False
        while True:
            try:
                if self.store is None:
                    self.store = self._connect()
                number = self._sign()
                while self._number() == number:
                    if not (missing := self._missing(number)):
                        return self._start(number)
                    if time.monotonic() > deadline:
                        raise ValueError(
                            f"machines {_listed(missing)} of {self.nodes.count} did not come to "
                            f"{self.nodes.rendezvous} within {COME_S:.0f} s; start the same command on each (srun "
                            "--ntasks-per-node 1), or set MEDSEG_NODES=1 to train on this machine alone"
                        )
                    if not told:
                        log.info("waiting at %s for machines %s", self.nodes.rendezvous, _listed(missing))
                        told = True
                    time.sleep(POLL_S)
            except DistError as error:
                self.store = None
                if time.monotonic() > deadline:
                    reason = str(error).splitlines()[0]
                    raise ValueError(
                        f"machine 0 was not found at {self.nodes.rendezvous} within {COME_S:.0f} s ({reason}); start "
                        "the same command there, or correct MEDSEG_RENDEZVOUS"
                    ) from None
                time.sleep(POLL_S)

    @contextmanager
    def watching(self, start: Start, end_ranks: Callable[[], None]) -> Iterator[None]:
        """While ranks run: end them `patience_s` after another machine lost its own, for they may wait for ever."""
        done = threading.Event()

        def watch() -> None:
            while self._lasts(start):
                if done.wait(POLL_S):
                    return
            if not done.wait(self.patience_s):
                end_ranks()

        thread = threading.Thread(target=watch, name="meeting", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _connect(self) -> TCPStore:
        """Asked again and again by the caller: signals are not heard in between."""
        host, port, leads = self.nodes.host, self.nodes.port, self.nodes.rank == 0
        store = TCPStore(host, port, None, leads, timedelta(seconds=CONNECT_S), wait_for_workers=False)
        store.set_timeout(timedelta(seconds=STORE_S))
        return store

    def _number(self) -> int:
        """Of the attempt that is on. SystemExit if none will be."""
        assert self.store is not None
        if self.store.check([OVER]):
            code, node = self.store.get(OVER).decode().split()
            log.warning("training ended on machine %s, whose log says why", node)
            raise SystemExit(int(code))
        return int(self.store.compare_set(ATTEMPT, "", "0"))

    def _sign(self) -> int:
        """Be ready for the attempt that is on; for the next one, if this machine had its part in it."""
        assert self.store is not None
        number = self._number()
        if self.store.check([f"{number} {self.nodes.rank}"]):
            self.store.compare_set(ATTEMPT, str(number), str(number + 1))
            number = self._number()
        if self.nodes.rank == 0:
            self.store.set(f"port {number}", str(_free_port()))
        self.store.set(f"{number} {self.nodes.rank}", json.dumps(self.says))
        return number

    def _missing(self, what: int | str) -> list[int]:
        """Machines that have not signed an attempt, or not left."""
        assert self.store is not None
        return [node for node in range(self.nodes.count) if not self.store.check([f"{what} {node}"])]

    def _start(self, number: int) -> Start:
        assert self.store is not None
        for node in range(self.nodes.count):
            said = json.loads(self.store.get(f"{number} {node}"))
            for name, value in self.says.items():
                if said[name] != value:
                    raise ValueError(
                        f"{name} is {said[name]} on machine {node} and {value} on machine {self.nodes.rank}; it must "
                        "be the same on all"
                    )
        return Start(number, int(self.store.get(f"port {number}")))

    def _lasts(self, start: Start) -> bool:
        assert self.store is not None
        try:
            return not self.store.check([OVER]) and int(self.store.get(ATTEMPT)) == start.number
        except DistError:
            return False


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
