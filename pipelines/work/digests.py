"""sha256 of files, each read once: remembered by size, times and inode in `.medseg/digests.sqlite`."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


class Digests:
    """The memory of one machine. No result depends on it: a forgotten file is read again."""

    def __init__(self, memory: sqlite3.Connection) -> None:
        self.memory = memory
        memory.execute("CREATE TABLE IF NOT EXISTS digest (key TEXT PRIMARY KEY, sha256 TEXT)")

    def of(self, path: Path, status: os.stat_result | None = None, reread: bool = False) -> str:
        """The content's sha256. Reads the file if it is not as at its last reading, or if `reread`."""
        key = _key(status or path.stat())
        if not reread:
            known = self.memory.execute("SELECT sha256 FROM digest WHERE key = ?", (key,)).fetchone()
            if known:
                return str(known[0])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.memory.execute("INSERT OR REPLACE INTO digest VALUES (?, ?)", (key, digest))
        return digest

    def keep(self) -> None:
        """Write down what was learnt so far, and let other processes write."""
        self.memory.commit()

    def remember(self, path: Path, sha256: str) -> None:
        """Of a file that was just written, or moved: its digest is known without reading."""
        self.memory.execute("INSERT OR REPLACE INTO digest VALUES (?, ?)", (_key(path.stat()), sha256))


@contextmanager
def remembered(path: Path) -> Iterator[Digests]:
    """The memory in the file `path`; what was learnt is kept when the block ends well."""
    with closing(sqlite3.connect(path)) as memory, memory:
        yield Digests(memory)


def _key(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
