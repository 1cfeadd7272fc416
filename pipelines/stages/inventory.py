"""List every raw file with its sha256 (DVC stage `inventory`).

Reads   data/raw (a folder, or a link to one)
Writes  data/inventory.parquet: path, bytes, sha256, problem; `hidden/PSEUDONYM` in place of a DICOM file's path
Run     python -m pipelines inventory       # 15,000 unchanged files: a second; new ones at the disk's speed

DVC could hash the folder itself, but stops the whole pipeline at one dangling link or unreadable file. Here such a file
gets a row with its problem, and ingest quarantines the scan it belongs to. The stage is asked at every run; when no
file changed, its output is the same to the byte and nothing after it runs. A digest is remembered by size, time and
inode in `.medseg/` so that an unchanged file is read once.
"""

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import params
from pipelines.dicom import key
from pipelines.sources import readers
from pipelines.work import project
from pipelines.work.digests import Digests, remembered
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
SCHEMA = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string()), ("problem", pa.string())])


def main() -> None:
    params.load()  # first stage: bad parameters, or a missing key, stop here, before anything runs
    project.RAW.mkdir(parents=True, exist_ok=True)
    table = current()
    with replacing(project.INVENTORY) as temporary:
        pq.write_table(table, temporary)
    log.info(
        "inventory: %d files, %d unreadable", table.num_rows, table.num_rows - table["problem"].to_pylist().count("")
    )


def current() -> pa.Table:
    """The project's inventory as it would be written now. Raises ValueError if DICOM is asked for without a key."""
    raw = project.root() / project.RAW
    listed = take(raw, project.state() / "digests.sqlite")
    return hide(listed, raw, params.load(project.root() / "params.yaml").data.sources)


def hide(listed: pa.Table, folder: Path, requested: Sequence[str]) -> pa.Table:
    """The inventory without paths that may name a patient, as hospitals' folders do.

    With `dicom` among the sources every path that no other layout claims goes by its keyed pseudonym. Without it, files
    that look like DICOM go by their content, since no stage reads them.
    """
    rows = listed.to_pylist()
    if "dicom" in requested:
        pseudonyms, open_paths = key.load(), claimed([row["path"] for row in rows], folder, requested)
        for row in rows:
            if row["path"] not in open_paths:
                row["path"] = hidden(row["path"], pseudonyms)
    else:
        for row in rows:
            if Path(row["path"]).suffix.lower() in DICOM_SUFFIXES or Path(row["path"]).name == "DICOMDIR":
                row["path"] = f"hidden/{row['sha256'][:16] or 'unreadable'}"
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["path"]), SCHEMA)


def hidden(path: str, pseudonyms: key.Pseudonyms) -> str:
    """What the inventory calls a path that may name a patient; `medseg data whereis` finds it again."""
    return f"hidden/{pseudonyms.name('path', path)}"


def claimed(paths: list[str], folder: Path, requested: Sequence[str] | None = None) -> set[str]:
    """Paths that a layout other than DICOM names (of those `requested`), and the index files that its reader opens."""
    chosen = [find for name, find in readers().items() if requested is None or name in requested]
    scans = [scan for find in chosen for scan in find(paths, folder)]
    named = {path for scan in scans for path in (*scan.images.values(), scan.label, scan.key) if path}
    above = {parent.as_posix() for path in named for parent in PurePosixPath(path).parents}
    indices = {path for path in paths if PurePosixPath(path).suffix in (".json", ".tsv", ".cfg")}
    return named | {path for path in indices if PurePosixPath(path).parent.as_posix() in above}


def take(folder: Path, digests: Path) -> pa.Table:
    """The inventory of `folder`, sorted by path (relative, POSIX). `digests`: the memory of known digests."""
    with remembered(digests) as memory:
        rows = [_row(folder, path, problem, memory) for path, problem in walk(folder)]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["path"]), SCHEMA)


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
    return [Path(name).resolve() for name in os.environ.get("MEDSEG_LINKED", "").split(os.pathsep) if name]


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
    return "a folder with the name of a file; move its content up" if name.endswith((".nii", ".nii.gz")) else ""


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
