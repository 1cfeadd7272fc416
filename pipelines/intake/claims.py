"""Which listed files a layout claims, and what a path is called that may name a patient."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa

from pipelines import params
from pipelines.intake.listing import SCHEMA, take
from pipelines.scans import key
from pipelines.sources import readers
from pipelines.work import project

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


def current() -> pa.Table:
    """The project's inventory as it would be written now. Raises ValueError if DICOM is asked for without a key."""
    raw = project.root() / project.RAW
    listed = take(raw, project.state_folder() / "digests.sqlite")
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
