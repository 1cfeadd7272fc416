"""Which folder of scans the project reads: data/raw, usually a link to where the scans really are."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from pipelines.work import environment, project
from pipelines.work.digests import sha256_of
from pipelines.work.writing import replacing


def link(folder: Path) -> None:
    """Make data/raw a link to `folder`.

    Raises ValueError when `folder` is not a folder, or data/raw already holds files of its own.
    """
    folder = folder.resolve()
    raw = project.root() / project.RAW
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of scans; give --data a folder that holds the sources' folders")
    if raw.resolve() == folder:
        return
    if raw.is_dir() and not raw.is_symlink():
        if any(raw.iterdir()):
            raise ValueError(f"{raw} is a folder with scans of its own; move it away before linking {folder} there")
        raw.rmdir()
    with replacing(raw) as temporary:
        temporary.symlink_to(folder, target_is_directory=True)


def refuse_unread(folder: Path, requested: Sequence[str]) -> None:
    """Raise ValueError with the remedy if data.sources `requested` reads nothing in `folder`.

    DICOM is told by content alone, so that with `dicom` among them no folder is refused.
    """
    from pipelines.intake import claims

    scans = claims.unread_below(folder, ()).scans if folder.is_dir() else {}
    if "dicom" in requested or set(scans) & set(requested):
        return
    found = ", ".join(f"{count} scans of layout {name}" for name, count in scans.items())
    remedy = f"add --set 'data.sources=[{', '.join(scans)}]', or take --profile own"
    raise ValueError(
        f"--data would be ignored: data.sources [{', '.join(requested)}] reads nothing of it, and the folder holds "
        + (f"{found}; {remedy}" if found else f"no scan in a known layout; `medseg data check {folder}` says more")
    )


def changed() -> bool:
    """Do the files below data/raw differ from the inventory? New ones are read once, unchanged ones only looked at.

    That nothing changed is remembered with size, times and inode of every file, so that asking again costs a look.
    """
    listed, memory = project.root() / project.INVENTORY, project.state_folder() / "raw-unchanged"
    if not listed.is_file():
        return True
    placed = environment.read().linked  # decides which links are followed
    seen = f"{placed} {_seen(project.root() / project.RAW)} {sha256_of(listed)}"
    if memory.is_file() and memory.read_text() == seen:
        return False
    if _differs(listed):
        return True
    memory.write_text(seen)
    return False


def _differs(listed: Path) -> bool:
    from pipelines.intake import claims, listing
    from pipelines.scans import parquet

    try:
        return not parquet.read(listed, listing.SCHEMA).equals(claims.current())
    except ValueError:  # no key: the inventory will say so
        return True


def _seen(folder: Path) -> str:
    """Digest of what the file system says of every file below, and of every folder it refuses to open."""
    refused: list[OSError] = []
    seen, lines = set(), []
    for here, folders, files in os.walk(folder, followlinks=True, onerror=refused.append):
        status = os.stat(here)  # noqa: PTH116 - paths as strings: half the time, of 30,000 files
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in files:
            lines.append(_looked_at(f"{here}/{name}"))
    lines += [f"{error.filename} {error.errno}" for error in refused]
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


def _looked_at(path: str) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return f"{path} {error.errno}"
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{path} {status.st_dev} {status.st_ino} {status.st_mode} {status.st_size} {times}"
