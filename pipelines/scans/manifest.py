"""The manifest: one row a scan, with its hashes, split and, if it cannot be used, the reason."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.scans import channels, parquet
from pipelines.work import project
from pipelines.work.writing import replacing

_FILE = pa.struct(
    [
        ("role", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("contract", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("case_id", pa.string()),
        ("patient", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("modalities", pa.list_(pa.string())),
        ("files", pa.list_(_FILE)),
        ("spacing_mm", pa.list_(pa.float64())),
        ("shape", pa.list_(pa.int64())),
        ("orientation", pa.string()),
        ("annotated", pa.list_(pa.string())),
        ("quarantined", pa.string()),
        ("notes", pa.list_(pa.string())),
        ("drawn", pa.list_(pa.string())),
    ]
)
_KEY = b"medseg.key"
SET_ASIDE = "set aside: "  # begins the reason of what is sound, but no scan to learn from: nobody can or need mend it
TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class File:
    """One file of a scan. `role`: a modality name, or `label`. `path` from the project's root, POSIX, under its
    pseudonym where it may name somebody, with the channel meant, if it holds several (pipelines/scans/channels.py);
    pipelines/scans/scan_files.py finds and reads it. `contract`: of a label, what its values mean."""

    role: str
    path: str
    sha256: str = ""
    bytes: int = 0
    contract: str = ""

    @property
    def content(self) -> str:
        """Of what is read: the file's digest, and the channel's number."""
        return channels.numbered(self.sha256, channels.parted(self.path)[1]) if self.sha256 else ""


@dataclass(frozen=True)
class Row:
    """One scan. `patient`: a pseudonym. `shape`, `spacing_mm`: (D, H, W) after reorientation; empty if unreadable.

    `quarantined`: why it cannot be used, or with SET_ASIDE before, why it is not meant to be.
    `notes`: what is odd about a scan that can be used, `check: finding`; nothing identifying. `drawn`: those of
    `annotated` that its label has a voxel of.
    """

    case_id: str
    patient: str
    source: str
    split: str
    modalities: list[str]
    files: list[File]
    annotated: list[str]
    spacing_mm: list[float] = field(default_factory=list)
    shape: list[int] = field(default_factory=list)
    orientation: str = ""
    quarantined: str = ""
    notes: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)

    @property
    def set_aside(self) -> bool:
        return self.quarantined.startswith(SET_ASIDE)

    @property
    def images(self) -> list[File]:
        return [file for file in self.files if file.role != "label"]

    @property
    def labels(self) -> list[File]:
        """None, one, or several masks."""
        return [file for file in self.files if file.role == "label"]


def write(path: Path, rows: list[Row], key: str = "") -> None:
    """`key`: fingerprint of the key that names in it were made with; empty if it decided none."""
    schema = SCHEMA.with_metadata({_KEY: key}) if key else SCHEMA
    with replacing(path) as temporary:
        pq.write_table(parquet.table_of([asdict(row) for row in rows], schema), temporary)


def key_of(path: Path = project.MANIFEST) -> str:
    """Fingerprint of the key behind the manifest's names; empty if there is no manifest, or no key decided any."""
    metadata = pq.read_schema(path).metadata if path.is_file() else None
    return (metadata or {}).get(_KEY, b"").decode()


def read(path: Path = project.MANIFEST) -> list[Row]:
    """All rows, in the file's order. Raises ValueError if there is no manifest yet."""
    if not path.is_file():
        raise ValueError(f"{path}: no manifest yet; `medseg run` or `dvc repro ingest` writes it")
    return [
        Row(**{**record, "files": [File(**file) for file in record["files"]], **_lists(record)})
        for record in parquet.read(path, SCHEMA).to_pylist()
    ]


def _lists(record: dict[str, Any]) -> dict[str, list[str]]:
    """Of columns that an older manifest lacks."""
    return {name: record[name] or [] for name in ("notes", "drawn")}


def usable(rows: list[Row]) -> list[Row]:
    return [row for row in rows if not row.quarantined]


def as_records(path: Path | None = None) -> list[dict[str, Any]]:
    """The manifest as plain records, for `medseg data ls`."""
    return [asdict(row) for row in read(path or project.root() / project.MANIFEST)]


def split_of(patient: str, seed: int, test_fraction: float, validation_fraction: float) -> str:
    """A patient's split from the pseudonym alone, so it stays put whatever scans are added."""
    draw = split_draw(patient, seed)
    if draw < test_fraction:
        return TEST
    return VALIDATION if draw < test_fraction + validation_fraction else TRAIN


def split_draw(patient: str, seed: int) -> float:
    """Uniform in [0, 1), a pure function of pseudonym and seed."""
    return int(hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()[:12], 16) / 16**12


def digest(path: Path = project.MANIFEST) -> str:
    """sha256 of the manifest's content: every scan's hashes, split and labels."""
    return with_digest(path)[1]


def with_digest(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows as plain records, faster than `read` makes them, and that."""
    rows = parquet.read(path, SCHEMA).to_pylist()
    return rows, hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def test_set_sha256(path: Path = project.MANIFEST) -> str:  # noqa: PT028 - no test, however it begins
    """Which scans are held out, and with which labels: only figures of the same can be compared."""
    held_out = [row for row in usable(read(path)) if row.split == TEST]
    told = sorted([row.case_id, *sorted(file.sha256 for file in row.labels)] for row in held_out)
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
