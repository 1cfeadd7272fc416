"""From listed files to scans: one row of the manifest each, from names alone; nothing is opened yet."""

import secrets
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.intake import listing
from pipelines.scans import channels
from pipelines.scans.contracts import contract_of
from pipelines.scans.key import Pseudonyms
from pipelines.scans.label_names import Meanings
from pipelines.scans.manifest import File, Row
from pipelines.scans.naming import HIDDEN, Names, at, hashed
from pipelines.sources import Scan, dicom, readers, scans_in

_FOR_ONCE = secrets.token_bytes(32)


def find(
    folder: Path,
    listed: pa.Table,
    sources: Iterable[str],
    names: Names | None = None,
    meanings: Meanings | None = None,
    modalities: Mapping[str, Sequence[str]] | None = None,
) -> list[Row]:
    """One row a scan below `folder`, from names alone; sorted. Case ids are unique after the examination only.

    `names`: what scans and files are called; without, paths as they are and ids under a key that is thrown away.
    `meanings`: what labels mean whose names do not tell it; `modalities`: what images show, likewise, by source.
    """
    names = names or Names(Pseudonyms(_FOR_ONCE), show_paths=True)
    files = {entry["path"]: entry for entry in listed.to_pylist()}
    asked = set(sources)
    scans = list(scans_in(list(files), folder, meanings or {}, asked))
    scans += dicom.find(list(files), folder, {}) if "dicom" in asked else ()
    claimed = {path for scan in scans for path in scan.paths}
    rows = [_row(_shown(scan, modalities or {}), folder, files, names) for scan in scans]
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


def _shown(scan: Scan, modalities: Mapping[str, Sequence[str]]) -> Scan:
    """With a modality for each of its images, or the problem."""
    if not any(role.isdigit() for role in scan.images):
        return scan
    told = modalities.get(f"{scan.source}-{scan.dataset}") or modalities.get(scan.source) or ()
    images = {
        told[int(role)] if role.isdigit() and int(role) < len(told) else role: path
        for role, path in scan.images.items()
    }
    problem = scan.problem
    if left := [path for role, path in images.items() if role.isdigit()]:
        problem = problem or (
            f"{at(left[0])}: nothing says what it shows; say it in params.yaml, data.modality: {{SOURCE: CT}}, or "
            "of several channels {SOURCE: [T1, FLAIR]}"
        )
    elif len(images) < len(scan.images):
        problem = problem or f"{at(next(iter(images.values())))}: data.modality gives two of its channels one modality"
    return replace(scan, images=images, problem=problem)


def _row(scan: Scan, folder: Path, files: dict[str, Any], names: Names) -> Row:
    roles = [(role, path, "") for role, path in sorted(scan.images.items())]
    roles += [("label", path, contract) for path, contract in scan.labels.items()]
    source, own = names.source(scan.source, scan.dataset), f"{scan.source}-{scan.dataset}".rstrip("-")
    problem = names.told(scan.problem).replace("{SOURCE:", f"{{{source if source == own else scan.source}:")
    listed = []
    for role, path, contract in roles:
        path, channel = channels.parted(path)
        entry = files.get(path, {"sha256": "", "bytes": 0, "problem": ""})
        shown = channels.numbered(folder / names.path(path), channel)
        listed.append(File(role, Path(shown).as_posix(), entry["sha256"], entry["bytes"], contract))
        if entry["problem"]:
            problem = problem or f"{names.path(path)}: {entry['problem']}"
    known = [name for contract in scan.labels.values() if contract for name in contract_of(contract).annotated]
    annotated = list(scan.annotated or dict.fromkeys(known))
    return Row(
        case_id=f"{scan.source}-{names.identifier(scan.source, scan.key)}",
        patient=names.identifier(scan.source, scan.patient),
        source=source,
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
