"""sha256 of files, each read once: remembered by size, times and inode in `.medseg/digests.sqlite`."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.work.cache import Cache


def sha256_of(path: Path) -> str:
    """The content's, in hexadecimal digits; always reads."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Digests:
    """Of the files of one machine."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def of(self, path: Path, status: os.stat_result | None = None, reread: bool = False) -> str:
        """The content's sha256. Reads the file if it is not as at its last reading, or if `reread`."""
        key = _key(status or path.stat())
        known = None if reread else self.cache.get(key)
        if known:
            return str(known[0])
        digest = sha256_of(path)
        self.cache.put(key, digest)
        return digest

    def remember(self, path: Path, sha256: str) -> None:
        """Of a file that was just written, or moved: its digest is known without reading."""
        self.cache.put(_key(path.stat()), sha256)


@contextmanager
def remembered(path: Path) -> Iterator[Digests]:
    """The digests that the file `path` keeps."""
    with Cache(path, "digest", ("sha256",)) as cache:
        yield Digests(cache)


def _key(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
