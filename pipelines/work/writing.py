"""Outputs that are complete or absent: written under a temporary name, renamed when whole."""

import errno
import json
import os
import platform
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from pipelines.work import faults

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # process ids tell processes apart on one host only
_LEFT = rf"\.(\d+)-{_HOST}\.(?:partial|former)\."


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any failure.

    The temporary does not exist yet: make it a file, a link or a folder. Its name ends like `path`'s, for writers that
    choose a format by it, and belongs to this process: of several that write at once each writes its own, and the last
    one to be whole stays. What killed processes of this host left of `path` is removed.

    Raises OSError, with what is free and what was written, on a full disk, whatever the writer raised for it.

    A file or link is replaced in one step. A folder cannot be: between two renames, some microseconds, there is none,
    and a run that is killed just then leaves none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    temporary = _beside(path, "partial")
    try:
        yield temporary
        if _is_folder(temporary):
            _replace_folder(temporary, path)
        else:
            temporary.replace(path)
    except Exception as error:
        if faults.is_full_disk(error):
            raise faults.full_disk(path, _size(temporary)) from error
        raise
    finally:
        _remove(temporary)


def write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{os.getpid()}-{_HOST}.{kind}.{path.name}")


def _replace_folder(temporary: Path, path: Path) -> None:
    former = _beside(path, "former")
    while True:
        with suppress(FileNotFoundError):
            path.rename(former)
        try:
            temporary.rename(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster; ours is the later one
                raise
        finally:
            _remove(former)


def _remove_leftovers(path: Path) -> None:
    """Temporaries of `path` whose process is gone, and any with this process's id: it writes a path once at a time."""
    for name in os.listdir(path.parent):  # noqa: PTH208 - thousands of case files lie beside, and each asks
        owner = re.fullmatch(_LEFT, name.removesuffix(path.name)) if name.startswith(".") else None
        if owner and (int(owner[1]) == os.getpid() or not psutil.pid_exists(int(owner[1]))):
            with suppress(FileNotFoundError):  # another process removes it, too
                _remove(path.parent / name)


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in (path, *path.rglob("*")) if file.is_file() and not file.is_symlink())


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
