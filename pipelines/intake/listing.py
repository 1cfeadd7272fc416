"""Every file below a folder with its sha256, or the problem that keeps it from being read.

A table with a row a file: path (relative, POSIX), bytes, sha256, problem. Links that lead out of the folder are not
followed unless $MEDSEG_LINKED names their target.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pipelines.scans import parquet
from pipelines.work import environment
from pipelines.work.digests import Digests, remembered

SCHEMA = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string()), ("problem", pa.string())])


def take(folder: Path, digests: Path) -> pa.Table:
    """The inventory of `folder`, sorted by path (relative, POSIX). `digests`: the memory of known digests."""
    with remembered(digests) as memory:
        rows = [_row(folder, path, problem, memory) for path, problem in walk(folder)]
    return parquet.table_of(sorted(rows, key=lambda row: row["path"]), SCHEMA)


def walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below, no folder twice; what cannot be read or entered is an entry with its problem."""
    refused: list[OSError] = []
    seen = set()
    roots = [folder.resolve(), *linked_roots()]
    for here, folders, files in os.walk(folder, followlinks=True, onerror=refused.append):
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        entered = []
        for name in sorted(folders):
            if name.startswith("."):
                continue
            path = Path(here) / name
            if problem := _leads_out(path, roots) or _poses_as_file(name):
                yield path, problem
            else:
                entered.append(name)
        folders[:] = entered
        for name in files:
            if not name.startswith("."):
                path = Path(here) / name
                yield path, _leads_out(path, roots)
    for error in refused:
        yield Path(error.filename), f"unreadable folder ({error.strerror})"


def linked_roots() -> list[Path]:
    """$MEDSEG_LINKED: folders outside that links may lead to, separated by colons; placement, not a parameter."""
    return [folder.resolve() for folder in environment.read().linked]


def _leads_out(path: Path, roots: list[Path]) -> str:
    """The problem of a link whose target lies in none of `roots`: what arrives with scans must not name other files."""
    if not path.is_symlink():
        return ""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        return f"unreadable ({getattr(error, 'strerror', None) or 'a link that leads to itself'})"
    if any(target.is_relative_to(root) for root in roots):
        return ""
    return "a link that leads out of the folder; put the file here, or name its folder in MEDSEG_LINKED"


def _poses_as_file(name: str) -> str:
    return "a folder with the name of a file; move its content up" if name.lower().endswith((".nii", ".nii.gz")) else ""


def _row(folder: Path, path: Path, problem: str, memory: Digests) -> dict[str, str | int]:
    size, sha256 = 0, ""
    relative = path.relative_to(folder).as_posix()
    if not relative.isprintable():  # also what is no UTF-8: it would break tables and logs
        relative = relative.encode("unicode_escape", "surrogatepass").decode()
        problem = problem or "its name holds control characters or is no UTF-8; rename it"
    if not problem:
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                problem = "not a regular file"
            else:
                size, sha256 = status.st_size, memory.of(path, status)
        except OSError as error:
            problem = f"unreadable ({error.strerror})"
    return {"path": relative, "bytes": size, "sha256": sha256, "problem": problem}
