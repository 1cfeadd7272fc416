"""The folder of case files: what lies there, from which content and parameters it was made, and what is due.

    data/cases/index.csv                    one line a usable scan: key, size and sha256 of its case file, or why none
    data/cases/{train,validation,test}/     the case files
    data/cases/.unfinished/KEY              finished by a run that was stopped before its end

A case's key is the digest of all that its file depends on: hashes of its scan's files, the parameters of its source,
the code. What lies there under its key is not made again. A run first finishes every case under `.unfinished`, then
writes the index, then moves the files to their names: killed between any two steps, the next run goes on, and no file
is ever half-written under its final name.
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from model.data import casefile
from model.data.casefile import Case
from pipelines.cases import preparation
from pipelines.cases.preparation import Preprocessing
from pipelines.scans import vocabulary
from pipelines.scans.contracts import contract_of
from pipelines.scans.manifest import SPLITS, Row
from pipelines.scans.modalities import in_hu
from pipelines.work import code
from pipelines.work.digests import Digests, sha256_of
from pipelines.work.writing import replacing

UNFINISHED = ".unfinished"
MADE_BY = ("model.data.casefile", "pipelines.cases.case_making", "pipelines.scans.volume")
# What only names things; label contracts and units are counted where they apply, so that a new one touches no other
# source.
COUNTED_APART = (
    "pipelines.scans.manifest",
    "pipelines.scans.modalities",
    "pipelines.scans.contracts",
    "pipelines.scans.structure",
    "pipelines.scans.vocabulary",
    "pipelines.scans.scan_files",
)


@dataclass(frozen=True)
class Entry:
    """One line of the index. `key`, `sha256` are empty and `bytes` 0 where `left_out` says why there is no file."""

    case_id: str
    split: str
    key: str = ""
    bytes: int = 0
    sha256: str = ""
    left_out: str = ""


class CaseFolder:
    """`digests`: what is known of the files' content, so that a damaged one is found without reading all."""

    def __init__(self, folder: Path, digests: Digests) -> None:
        self.folder, self.unfinished, self.digests = folder, folder / UNFINISHED, digests
        self.index = {entry.case_id: entry for entry in read_index(folder)}

    def finished(self, row: Row, key: str) -> Entry | None:
        """The entry of a case that need not be made again, or None."""
        if (waiting := self.unfinished / key).is_file():
            return Entry(row.case_id, row.split, key, waiting.stat().st_size, sha256_of(waiting))
        entry = self.index.get(row.case_id)
        if entry is None or entry.key != key:
            return None
        path = path_of(self.folder, entry)
        return entry if path.is_file() and self.digests.of(path) == entry.sha256 else None

    def commit(self, entries: Iterable[Entry]) -> None:
        """Make the folder hold exactly these cases."""
        kept = sorted(entries, key=lambda entry: entry.case_id)
        for split in SPLITS:
            (self.folder / split).mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / "index.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(field.name for field in fields(Entry))
            writer.writerows(astuple(entry) for entry in kept)
        present = {path_of(self.folder, entry) for entry in kept if entry.key}
        for split in SPLITS:
            for path in (self.folder / split).iterdir():
                if path not in present:
                    path.unlink()
        waiting = {path.name for path in self.unfinished.iterdir()} if self.unfinished.is_dir() else set()
        for entry in kept:
            if entry.key in waiting:
                path = path_of(self.folder, entry)
                (self.unfinished / entry.key).replace(path)
                self.digests.remember(path, entry.sha256)
        if self.unfinished.is_dir():
            shutil.rmtree(self.unfinished)


def path_of(folder: Path, entry: Entry) -> Path:
    return folder / entry.split / f"{entry.case_id}.safetensors"


def finish(folder: Path, case: Case, key: str) -> Entry:
    """Write a case into `folder` under its key, complete or not at all; any process may, without the index."""
    path = folder / UNFINISHED / key
    with replacing(path) as temporary:
        casefile.write(temporary, case)
        size, digest = temporary.stat().st_size, sha256_of(temporary)
    return Entry(case.record.case_id, case.record.split, key, size, digest)


def read_index(folder: Path) -> list[Entry]:
    """The index's lines; none if there is no index, or it is not one of this version."""
    path = folder / "index.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != [field.name for field in fields(Entry)]:
            return []
        return [Entry(**{**line, "bytes": int(line["bytes"])}) for line in reader]  # type: ignore[arg-type]


def keys(rows: Sequence[Row], plan: Preprocessing, points: int) -> dict[str, str]:
    """Case id -> digest of all its case file depends on: its scan, what applies to its source, the code."""
    made_by = code_digest()
    meant = {name: _contract_digest(name) for name in {file.contract for row in rows for file in row.labels}}
    return {row.case_id: _key(row, plan, points, [made_by, *(meant[f.contract] for f in row.labels)]) for row in rows}


def code_digest() -> str:
    """Of the code that makes a case."""
    return code.digest(*MADE_BY, without=(*code.WITHOUT_INFLUENCE, *COUNTED_APART))


def _contract_digest(name: str) -> str:
    """A contract's values and the ids of its structures, so that a new contract touches no other source."""
    contract, words = contract_of(name), vocabulary.here()
    values = [[value, words[structure].id] for value, structure in contract.values.items()]
    return json.dumps([values, contract.ignore, contract.background])


def _key(row: Row, plan: Preprocessing, points: int, made_by: list[str]) -> str:
    source = plan.sources[row.source]
    hounsfield = [name for name in row.modalities if in_hu(name)]
    windowed = bool(hounsfield) and source.normalisation == preparation.WINDOW
    scan = [row.case_id, row.source, row.split, row.modalities, hounsfield, row.annotated]
    applied = [source.spacing_mm, source.normalisation, asdict(plan.ct) if windowed else None, points]
    files = [(file.role, file.content) for file in row.files]
    return hashlib.sha256(json.dumps([scan, files, applied, made_by]).encode()).hexdigest()
