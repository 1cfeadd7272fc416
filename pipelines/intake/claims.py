"""Which listed files a layout claims, and what a path is called that may name a patient."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa

from pipelines import params
from pipelines.intake.listing import SCHEMA, take
from pipelines.scans import key, scan_files
from pipelines.scans.naming import HIDDEN, LAYOUT, Names
from pipelines.sources import readers
from pipelines.work import project

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


def current() -> pa.Table:
    """The project's inventory as it would be written now; what its names stand for is remembered on this machine.

    Raises ValueError if DICOM is asked for without a key.
    """
    raw = project.root() / project.RAW
    sources = params.load(project.root() / "params.yaml").data.sources
    names = Names(key.load() if "dicom" in sources else key.of_project())
    listed = take(raw, project.state_folder() / "digests.sqlite")
    shown = calling(listed, raw, sources, names)
    scan_files.remember({called: path for path, called in shown.items() if called.startswith(f"{LAYOUT}/")})
    return hide(listed, shown)


def calling(listed: pa.Table, folder: Path, requested: Sequence[str], names: Names) -> dict[str, str]:
    """What the inventory calls each path: as it is if published, else by a pseudonym, as folders may name patients.

    `layout/...` is what a layout among `requested` names. The rest is `hidden/...`, where DICOM is looked for: with
    `dicom` among them nothing of it is kept as it is, since a label beside a series has any name.
    """
    paths = listed["path"].to_pylist()
    of_layouts = claimed(paths, folder, requested)
    return {
        path: names.path(path, LAYOUT)
        if path in of_layouts
        else names.hidden(path)
        if "dicom" in requested
        else names.path(path, HIDDEN)
        for path in paths
    }


def hide(listed: pa.Table, shown: dict[str, str]) -> pa.Table:
    """The inventory with each path called as `shown` says."""
    rows = [{**row, "path": shown[row["path"]]} for row in listed.to_pylist()]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["path"]), SCHEMA)


def claimed(paths: list[str], folder: Path, requested: Sequence[str] | None = None) -> set[str]:
    """Paths that a layout other than DICOM names (of those `requested`), and the index files that its reader opens."""
    chosen = [find for name, find in readers().items() if requested is None or name in requested]
    scans = [scan for find in chosen for scan in find(paths, folder)]
    named = {path for scan in scans for path in (*scan.images.values(), scan.label, scan.key) if path}
    above = {parent.as_posix() for path in named for parent in PurePosixPath(path).parents}
    indices = {path for path in paths if PurePosixPath(path).suffix in (".json", ".tsv", ".cfg")}
    return named | {path for path in indices if PurePosixPath(path).parent.as_posix() in above}
