"""What was found out once, in a SQLite file of this machine's state. No result depends on it: forgetting costs time.

    with Cache(path, "digest", ("sha256",)) as cache: ...      get(key) -> values or None; put(key, *values)

Several processes may use one file. Each entry is written at once, so that a killed run goes on from there. A file that
is damaged, or of another layout, is set aside as NAME.damaged and begun anew, with a line in the log.
"""

import logging
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

PATIENCE_S = 60.0  # for another process that writes; it needs microseconds
# What a file says that cannot be used; the last of them where it has other tables than these.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class Cache:
    """A table of key -> values. Raises OSError, naming the file, where it cannot be opened or written."""

    def __init__(self, path: Path, table: str, columns: tuple[str, ...]) -> None:
        self.path = path
        self._create = f"CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, {', '.join(columns)})"
        self._get = f"SELECT {', '.join(columns)} FROM {table} WHERE key = ?"
        self._put = f"INSERT OR REPLACE INTO {table} VALUES (?{', ?' * len(columns)})"
        self._database: sqlite3.Connection | None = None

    def get(self, key: str) -> tuple[Any, ...] | None:
        return self._ask(self._get, key)

    def put(self, key: str, *values: Any) -> None:
        self._ask(self._put, key, *values)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, statement: str, *values: Any, again: bool = True) -> tuple[Any, ...] | None:
        try:
            found: tuple[Any, ...] | None = self._opened().execute(statement, values).fetchone()
            return found
        except sqlite3.DatabaseError as error:
            if not again or error.sqlite_errorcode & 0xFF not in _DAMAGED:
                raise OSError(f"{self.path}: {error}; it only saves time and may be removed") from None
            self._set_aside(error)
        return self._ask(statement, *values, again=False)

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = sqlite3.connect(self.path, timeout=PATIENCE_S, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")  # nobody waits for a reader
            self._database.execute("PRAGMA synchronous = OFF")  # it can be found out again
            self._database.execute(self._create)
        return self._database

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        self.close()
        _set_aside(self.path, f"{error}; it only saves time")


def mend(path: Path, held: str) -> None:
    """Set another program's SQLite file aside if it is damaged; nobody may have it open. `held`: what is lost."""
    if not path.is_file():
        return
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE_S)) as database:
            told = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in _DAMAGED:
            raise OSError(f"{path}: {error}") from None
        told = str(error)
    if told != "ok":
        _set_aside(path, f"{told}; it held {held}")


def _set_aside(path: Path, why: str) -> None:
    damaged = path.with_name(f"{path.name}.damaged")
    log.warning("%s is damaged (%s): begun anew, kept as %s", path, why, damaged.name)
    for suffix in ("-wal", "-shm"):  # they belong to it and would be taken for the new file's
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    with suppress(FileNotFoundError):  # another process was faster
        path.replace(damaged)
