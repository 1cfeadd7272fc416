"""Sessions of MONAI Label's clients: a scan that is sent once and segmented as often as they ask.

They lie in the queue's folder of arrivals and are gone at the service's next start; clients then send the scan again.
"""

import os
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

EXPIRY_S = 3600.0  # after it was asked for last
PER_SENDER = 4  # the oldest goes


@dataclass
class _Kept:
    sender: str
    folder: Path
    used_at: float


@dataclass
class Sessions:
    """Of one process. Threads may share it."""

    _found: dict[str, _Kept] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, sender: str, folder: Path) -> str:
        """`folder`, from `Spool.arriving`, is the session's. Its name, which nobody can guess, is the session's id."""
        with self._lock:
            own = [key for key, each in self._found.items() if each.sender == sender]
            late = [key for key, each in self._found.items() if each.used_at < time.monotonic() - EXPIRY_S]
            for key in {*late, *own[: max(0, len(own) + 1 - PER_SENDER)]}:
                shutil.rmtree(self._found.pop(key).folder, ignore_errors=True)
            self._found[folder.name] = _Kept(sender, folder, time.monotonic())
        return folder.name

    def knows(self, sender: str, key: str) -> bool:
        with self._lock:
            return self._of(sender, key) is not None

    def copy(self, sender: str, key: str, folder: Path) -> None:
        """Its files into an empty folder, by hard links. Raises KeyError."""
        with self._lock:
            session = self._of(sender, key)
            if session is None:
                raise KeyError(key)
            session.used_at = time.monotonic()
            for file in session.folder.iterdir():
                os.link(file, folder / file.name)

    def remove(self, sender: str, key: str) -> bool:
        with self._lock:
            session = self._of(sender, key)
            if session is not None:
                shutil.rmtree(self._found.pop(key).folder, ignore_errors=True)
            return session is not None

    def _of(self, sender: str, key: str) -> _Kept | None:
        found = self._found.get(key)
        return found if found is not None and found.sender == sender else None
