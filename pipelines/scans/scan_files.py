"""The files of scans: where they lie, and reading them as ingest saw them. Nothing else opens a file of the manifest.

    remember(names)             which file below data/raw each `layout/...` stands for, as the inventory finds it
    where(path) -> Path         the file behind a path of the manifest
    volume_at(path) -> Path     the same with the channel meant, as pipelines/scans/channels.py names it
    read(row, file) -> Volume   refused if the file is not what the manifest says it was

What these names stand for lies in `.medseg`, readable by its owner alone, and is written anew by every inventory: it
goes with the raw scans, not with the project.
"""

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.scans import channels
from pipelines.scans.byte_stream import VolumeError
from pipelines.scans.manifest import File, Row
from pipelines.scans.naming import LAYOUT
from pipelines.work import project
from pipelines.work.digests import sha256_of
from pipelines.work.writing import replacing

if TYPE_CHECKING:
    from pipelines.scans.volume_geometry import Volume

_LAYOUT = f"{(project.RAW / LAYOUT).as_posix()}/"


def remember(names: dict[str, str]) -> None:
    """`names`: as the inventory calls a file -> its path below data/raw."""
    with replacing(_memory()) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(dict(sorted(names.items())), file)


def paths(shown: list[str]) -> list[str]:
    """Paths below data/raw of what the inventory lists; of what no layout claims, as listed. Raises VolumeError if one
    is not known on this machine."""
    return [where(f"{project.RAW.as_posix()}/{name}").relative_to(project.RAW).as_posix() for name in shown]


def where(path: str) -> Path:
    """The file behind `path`, both from the project's root. Raises VolumeError if it is not known on this machine."""
    path, _ = channels.parted(path)
    if not path.startswith(_LAYOUT):
        return Path(path)
    memory = _memory()
    known = _read(memory, memory.stat().st_mtime_ns) if memory.is_file() else {}
    name = Path(path).relative_to(project.RAW).as_posix()
    if name not in known:
        raise VolumeError(
            f"{path} is not known on this machine; link the raw scans (`medseg run --data DIR`), then "
            "`dvc repro inventory` looks for it"
        )
    return project.RAW / known[name]


def volume_at(path: str) -> Path:
    return Path(channels.numbered(where(path), channels.parted(path)[1]))


def read(row: Row, file: File) -> "Volume":
    """A scan's image or label. Raises VolumeError, naming the case, if the file changed since it was listed."""
    from pipelines.scans import volume  # nibabel takes half a second, and who asks for names alone needs none

    path = where(file.path)
    before = _state(row, file, path)
    try:
        unchanged = sha256_of(path) == file.sha256
    except OSError as error:
        raise _unreadable(row, file, error) from None
    if not unchanged:
        raise _changed(row, file)
    found = volume.read(volume_at(file.path))
    if _state(row, file, path) != before:  # while it was read
        raise _changed(row, file)
    return found


def _state(row: Row, file: File, path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(row, file, error) from None
    if status.st_size != file.bytes:
        raise _changed(row, file)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _unreadable(row: Row, file: File, error: OSError) -> VolumeError:
    return VolumeError(f"{row.case_id}: its {file.role} file cannot be read ({error.strerror})")


def _changed(row: Row, file: File) -> VolumeError:
    return VolumeError(f"{row.case_id}: its {file.role} file changed since it was listed; `medseg run` takes it anew")


def _memory() -> Path:
    return project.state_folder() / "raw-files.json"


@lru_cache(maxsize=1)
def _read(memory: Path, _written_ns: int) -> dict[str, str]:
    return dict(json.loads(memory.read_text()))
