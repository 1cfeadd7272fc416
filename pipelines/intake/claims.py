"""Which listed files a layout claims, and what a path is called that may name a patient."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from pipelines import params
from pipelines.intake.listing import SCHEMA, take, walk
from pipelines.scans import key, parquet, scan_files
from pipelines.scans.naming import HIDDEN, LAYOUT, Names
from pipelines.sources import readers
from pipelines.work import project

NIFTI_SUFFIXES = (".nii", ".nii.gz")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z", ".rar")
PACKED_TABLES = (".tsv.gz", ".csv.gz", ".json.gz", ".txt.gz")  # no scan is expected in them
OTHER_FORMATS = (".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh")


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
    return parquet.table_of(sorted(rows, key=lambda row: row["path"]), SCHEMA)


@dataclass(frozen=True)
class Unread:
    """What lies there and is not read. `scans`: their number by layout, of those that data.sources does not name.

    `unclaimed`: paths of NIfTI files that no layout claims. `packed`: of archives, compressed files and scans in
    formats that are not read.
    """

    scans: dict[str, int]
    unclaimed: list[str]
    packed: list[str]

    def remedy(self, requested: Sequence[str]) -> str:
        """What to type so that the layouts are read, too."""
        return f"--set 'data.sources=[{', '.join([*requested, *self.scans])}]'"


def unread(paths: Sequence[str], folder: Path, requested: Sequence[str]) -> Unread:
    """What of the files in `paths` below `folder` the layouts in `requested` leave alone."""
    taken: set[str] = set()
    scans: dict[str, int] = {}
    for name, find in sorted(readers().items(), key=lambda each: each[0] not in requested):
        own = [set(scan.paths) for scan in find(paths, folder, {})]
        new = [files for files in own if files and not files <= taken]
        taken.update(*new)
        if new and name not in requested:
            scans[name] = len(new)
    nifti = (path for path in paths if path.lower().endswith(NIFTI_SUFFIXES))
    packed = (path for path in paths if path.lower().endswith((*PACKED_SUFFIXES, *OTHER_FORMATS)))
    return Unread(
        scans,
        sorted(path for path in nifti if path not in taken),
        sorted(path for path in packed if not path.lower().endswith((*NIFTI_SUFFIXES, *PACKED_TABLES))),
    )


def unread_below(folder: Path, requested: Sequence[str]) -> Unread:
    """The same from names alone, before anything is read."""
    paths = [path.relative_to(folder).as_posix() for path, problem in walk(folder) if not problem]
    return unread(sorted(path for path in paths if path.isprintable()), folder, requested)


def claimed(paths: list[str], folder: Path, requested: Sequence[str] | None = None) -> set[str]:
    """Paths that a layout other than DICOM names (of those `requested`), and the index files that its reader opens."""
    chosen = [find for name, find in readers().items() if requested is None or name in requested]
    scans = [scan for find in chosen for scan in find(paths, folder, {})]
    named = {path for scan in scans for path in (*scan.paths, scan.key) if path}
    above = {parent.as_posix() for path in named for parent in PurePosixPath(path).parents}
    indices = {path for path in paths if PurePosixPath(path).suffix in (".json", ".tsv", ".cfg")}
    return named | {path for path in indices if PurePosixPath(path).parent.as_posix() in above}
