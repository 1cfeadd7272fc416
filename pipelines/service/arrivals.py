"""Series that arrive an object at a time: kept on disk until none comes any more, then given to the queue as one job.

    arrivals = Arrivals(folder, settings, pseudonyms, accept)
    arrivals.take(file, caller, association, instance)     status of a C-STORE; the file then lies with its series
    arrivals.give(living)                                  what had no news for a while, each a job; called now and then

Who sent an object was told that it is stored, so it outlives kill -9: what lies in the folder at the start is taken up.
The name of a series' folder is the job's key: given twice, it is one job. Folders and files are called by pseudonyms.
"""

import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.dicom import index
from pipelines.scans.key import Pseudonyms
from pipelines.service.peers import DimseSettings

log = logging.getLogger(__name__)

STORED, NO_ROOM, ANOTHER_OBJECT, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000  # PS3.4 B.2.3
Accept = Callable[[Sequence[Path], str], bool]


@dataclass
class _Arrival:
    """A series, or study. `associations` that brought something; `refused`: too large, its files are gone."""

    folder: Path
    last: float
    sizes: dict[str, int] = field(default_factory=dict)  # by file
    bytes: int = 0  # of all
    associations: set[int] = field(default_factory=set)
    refused: bool = False


class Arrivals:
    """`accept(files, key)`: a job of them, once a key; False if the queue is full. The files stay ours."""

    def __init__(self, folder: Path, settings: DimseSettings, pseudonyms: Pseudonyms, accept: Accept) -> None:
        self._folder, self._settings, self._pseudonyms, self._accept = folder, settings, pseudonyms, accept
        self._lock = threading.Lock()
        self._arriving: dict[str, _Arrival] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in sorted(folder.iterdir()):
            sizes = {file.name: file.stat().st_size for file in left.iterdir()}
            self._arriving[left.name.partition("-")[0]] = _Arrival(left, time.monotonic(), sizes, sum(sizes.values()))

    def take(self, file: Path, caller: str, association: int, instance: str) -> int:
        """`file`: moved where it belongs, or left to the caller. `instance`: the SOP Instance UID that it came as."""
        entry = index.entry(file, self._pseudonyms)
        if entry.kind in (index.REFUSED, index.FOREIGN):
            return NOT_UNDERSTOOD
        if entry.kind != index.IMAGE:  # reports, segmentations, presentation states that come along with a study
            return STORED
        if entry.instance != self._pseudonyms.name("instance", instance):
            return ANOTHER_OBJECT
        whole = entry.study if self._settings.together == "study" else f"{entry.study} {entry.series}"
        try:
            with self._lock:
                arrival = self._arrival(self._pseudonyms.name("arrival", f"{caller} {whole}"))
                return self._keep(arrival, file, f"{entry.instance}.dcm", association) if arrival else NO_ROOM
        except OSError as error:  # a full disk, mostly
            log.warning("an object that came by DIMSE could not be kept: %s", error.strerror)
            return NO_ROOM

    def _arrival(self, name: str) -> _Arrival | None:
        if name not in self._arriving:
            if len(self._arriving) >= self._settings.unfinished:
                return None
            folder = self._folder / f"{name}-{secrets.token_hex(8)}"  # the same series sent again later is another job
            folder.mkdir(mode=0o700)
            self._arriving[name] = _Arrival(folder, time.monotonic())
        return self._arriving[name]

    def _keep(self, arrival: _Arrival, file: Path, name: str, association: int) -> int:
        arrival.last = time.monotonic()
        arrival.associations.add(association)
        size, former = file.stat().st_size, arrival.sizes.get(name)
        arrival.bytes += size - (former or 0)
        count = len(arrival.sizes) + (former is None)
        if not arrival.refused and (
            count > self._settings.series_objects or arrival.bytes > self._settings.series_bytes
        ):
            log.warning("a series that came by DIMSE has more than series_objects or series_bytes allow; it is refused")
            shutil.rmtree(arrival.folder)
            arrival.refused = True
        if arrival.refused:
            return NO_ROOM
        with file.open("rb") as written:
            os.fsync(written.fileno())
        file.replace(arrival.folder / name)
        arrival.sizes[name] = size
        return STORED

    def give(self, living: Collection[int]) -> None:
        """`living`: associations that may bring more; what they brought to waits, as does what the queue has no room
        for."""
        with self._lock:
            now = time.monotonic()
            for name, arrival in list(self._arriving.items()):
                if now - arrival.last < self._settings.complete_s or not arrival.associations.isdisjoint(living):
                    continue
                if arrival.refused or self._accepted(arrival):
                    shutil.rmtree(arrival.folder, ignore_errors=True)
                    del self._arriving[name]
                else:
                    arrival.last = now

    def _accepted(self, arrival: _Arrival) -> bool:
        if not arrival.sizes:
            return True
        try:
            taken = self._accept(sorted(arrival.folder.iterdir()), arrival.folder.name)
        except Exception as error:  # the queue's disk or database: what arrived waits for it
            log.error("a series of %d objects waits: the queue fails (%s)", len(arrival.sizes), type(error).__name__)
            return False
        log.info("%d objects that came by DIMSE %s", len(arrival.sizes), "are a job" if taken else "wait: queue full")
        return taken
