"""Is every scan of the manifest, and every case made from it, still what it was? (`medseg data verify`)

Compares size and sha256 of every file with the manifest and with the index of case files. A file whose size, time and
inode are those of its last reading is not read again (`.medseg/digests.sqlite`): 15,000 scans take seconds. `reread`
reads every byte. Problems name cases and roles, never files: `medseg data whereis CASE` tells those.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.cases import case_folder
from pipelines.cases.case_folder import Entry
from pipelines.scans import manifest, scan_files
from pipelines.scans.manifest import SPLITS, Row
from pipelines.scans.volume import VolumeError
from pipelines.work import project
from pipelines.work.digests import Digests, remembered
from pipelines.work.progress import track


@dataclass(frozen=True)
class Problem:
    case_id: str
    problem: str


def verify(reread: bool = False) -> dict[str, Any]:
    """Keys: `ok`, `scans`, `quarantined`, `files`, `cases`, `left_out`, `problems` (list of case_id, problem)."""
    rows = manifest.read()
    usable = manifest.usable(rows)
    entries = {entry.case_id: entry for entry in case_folder.read_index(project.CASES)}
    with remembered(project.state_folder() / "digests.sqlite") as digests:
        look = partial(_difference, digests=digests, reread=reread)
        checked = track(usable, len(usable), "verify")
        problems = [problem for row in checked for problem in _problems(row, entries.get(row.case_id), look)]
    problems += _strangers(entries, {row.case_id for row in usable})
    return {
        "ok": not problems,
        "scans": len(rows),
        "quarantined": len(rows) - len(usable),
        "files": sum(len(row.files) for row in usable),
        "cases": sum(bool(entry.key) for entry in entries.values()),
        "left_out": {entry.case_id: entry.left_out for entry in entries.values() if entry.left_out},
        "problems": [{"case_id": found.case_id, "problem": found.problem} for found in problems],
    }


def _problems(row: Row, entry: Entry | None, look: Callable[[Path | str, int, str], str]) -> Iterator[Problem]:
    for file in row.files:
        if difference := look(file.path, file.bytes, file.sha256):
            yield Problem(row.case_id, f"its {file.role} file {difference}; restore it, or `medseg run` takes it anew")
    if entry is None:
        yield Problem(row.case_id, "has no case file yet; `medseg run` makes it")
    elif entry.key and (difference := look(case_folder.path_of(project.CASES, entry), entry.bytes, entry.sha256)):
        yield Problem(row.case_id, f"its case file {difference}; `medseg run` makes it again")


def _difference(path: Path | str, size: int, sha256: str, digests: Digests, reread: bool) -> str:
    """Empty if the file is as told, else the difference in words. `path`: a case file, or as the manifest has it."""
    try:
        path = scan_files.where(path) if isinstance(path, str) else path
        status = path.stat()
        if status.st_size != size:
            return f"has {status.st_size} bytes where {size} are due"
        found = digests.of(path, status, reread)
    except FileNotFoundError:
        return "is missing"
    except VolumeError:
        return "is not known on this machine (`dvc repro inventory` looks for it)"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if found == sha256 else "has other content than it had"


def _strangers(entries: dict[str, Entry], usable: set[str]) -> Iterator[Problem]:
    """Cases of scans that the manifest no longer has."""
    for case_id in sorted(set(entries) - usable):
        yield Problem(case_id, "is in the index of cases but not in the manifest; `medseg run` removes it")
    known = {f"{entry.case_id}.safetensors" for entry in entries.values() if entry.key}
    for split in SPLITS:
        for path in sorted((project.CASES / split).glob("*")):
            if path.name not in known:
                yield Problem(path.stem, f"lies in {split} but not in the index of cases; `medseg run` removes it")
