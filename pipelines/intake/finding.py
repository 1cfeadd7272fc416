"""From listed files to scans: one row of the manifest each, from names alone; nothing is opened yet."""

import secrets
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.intake import listing
from pipelines.scans.contracts import contract_of
from pipelines.scans.key import Pseudonyms
from pipelines.scans.label_names import Meanings
from pipelines.scans.manifest import File, Row
from pipelines.scans.naming import HIDDEN, Names, hashed
from pipelines.sources import Scan, dicom, readers

_FOR_ONCE = secrets.token_bytes(32)


def find(
    folder: Path,
    listed: pa.Table,
    sources: Iterable[str],
    names: Names | None = None,
    meanings: Meanings | None = None,
) -> list[Row]:
    """One row a scan below `folder`, from names alone; sorted. Case ids are unique after the examination only.

    `names`: what scans and files are called; without, paths as they are and ids under a key that is thrown away.
    `meanings`: what labels mean whose names do not tell it.
    """
    names = names or Names(Pseudonyms(_FOR_ONCE), show_paths=True)
    files = {entry["path"]: entry for entry in listed.to_pylist()}
    found = {**readers(), "dicom": dicom.find}
    scans = [scan for name in sources if name in found for scan in found[name](list(files), folder, meanings or {})]
    claimed = {path for scan in scans for path in scan.paths}
    rows = [_row(scan, folder, files, names) for scan in scans]
    unread = [entry for path, entry in files.items() if entry["problem"] and path not in claimed]
    rows += [_unclaimed(entry, folder, names) for entry in unread]
    return sorted(rows, key=lambda row: (row.source, [file.path for file in row.files]))


def find_phantoms(folder: Path) -> list[Row]:
    with tempfile.TemporaryDirectory() as memory:
        listed = listing.take(folder, Path(memory) / "digests.sqlite")
    return [replace(row, source=f"phantom-{row.source}") for row in find(folder, listed, tuple(readers()))]


def find_deidentified(folder: Path, digests: Path) -> list[Row]:
    """What stage `deidentify` made of the DICOM series, if any. `digests`: the memory of known digests."""
    return find(folder, listing.take(folder, digests), ("dicom",))


def _row(scan: Scan, folder: Path, files: dict[str, Any], names: Names) -> Row:
    roles = [(role, path, "") for role, path in sorted(scan.images.items())]
    roles += [("label", path, contract) for path, contract in scan.labels.items()]
    problem, listed = names.told(scan.problem), []
    for role, path, contract in roles:
        entry = files.get(path, {"sha256": "", "bytes": 0, "problem": ""})
        listed.append(File(role, (folder / names.path(path)).as_posix(), entry["sha256"], entry["bytes"], contract))
        if entry["problem"]:
            problem = problem or f"{names.path(path)}: {entry['problem']}"
    known = [name for contract in scan.labels.values() if contract for name in contract_of(contract).annotated]
    annotated = list(scan.annotated or dict.fromkeys(known))
    return Row(
        case_id=f"{scan.source}-{names.identifier(scan.source, scan.key)}",
        patient=names.identifier(scan.source, scan.patient),
        source=names.source(scan.source, scan.dataset),
        split="",
        modalities=sorted(scan.images),
        files=listed,
        annotated=annotated,
        quarantined=problem,
        notes=list(scan.notes),
    )


def _unclaimed(entry: dict[str, Any], folder: Path, names: Names) -> Row:
    """A file or folder that cannot be read, so that no layout could claim it: it must not vanish silently."""
    path = names.path(entry["path"], HIDDEN)
    name = hashed("unread", path)
    file = File("unread", (folder / path).as_posix())
    return Row(f"unread-{name}", name, "unread", "", [], [file], [], quarantined=f"{path}: {entry['problem']}")
