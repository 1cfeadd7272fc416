"""Copies of folders that cost what changed: a file that the copy before has is linked to it, not copied again.

    copy(source, target, former, digests, left_out) -> {path: sha256}

A SQLite file is copied by SQLite itself, as of one moment, while others write to it.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from pipelines.work.digests import sha256_of

SQLITE = b"SQLite format 3\0"
BESIDE_SQLITE = ("-wal", "-shm", "-journal")


def copy(
    source: Path, target: Path, before: Path | None, digests: dict[str, str], left_out: Callable[[Path], bool]
) -> dict[str, str]:
    """The sha256 of each file, by its path below `target`. `before`: the former copy; `digests`: of its files."""
    found = {}
    for path in _files(source, left_out):
        name = path.relative_to(source).as_posix()
        to, former = target / name, before / name if before else None
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.is_symlink():
            to.symlink_to(path.readlink())
        elif former and name in digests and _same(path, former):
            os.link(former, to)
            found[name] = digests[name]
        elif _copied(path, to):
            found[name] = sha256_of(to)
    return found


def damaged(folder: Path, digests: dict[str, str]) -> list[str]:
    """Files that are gone or not what they were."""
    return [name for name, sha256 in digests.items() if not _is(folder / name, sha256)]


def _files(folder: Path, left_out: Callable[[Path], bool]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if left_out(path) or path.name.endswith(BESIDE_SQLITE) or ".partial." in path.name or ".former." in path.name:
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path, left_out)
        elif path.is_file() or path.is_symlink():
            yield path


def _same(path: Path, former: Path) -> bool:
    """By size and time, as rsync tells."""
    try:
        now, then = path.stat(), former.lstat()
    except FileNotFoundError:
        return False
    return (now.st_size, now.st_mtime_ns, now.st_mode) == (then.st_size, then.st_mtime_ns, then.st_mode)


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _copied(path: Path, to: Path) -> bool:
    """Whether there was something to copy: what lives for a moment may be gone since the folder was read."""
    try:
        if _is_database(path):
            _copy_database(path, to)
        else:
            shutil.copy2(path, to)
    except FileNotFoundError:
        if path.exists():
            raise
        return False
    return True


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE


def _copy_database(path: Path, to: Path) -> None:
    with closing(sqlite3.connect(path, timeout=60)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)
    to.chmod(path.stat().st_mode & 0o777)
