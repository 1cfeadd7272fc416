"""`medseg data check DIR`: what a folder holds in any layout, DICOM included, and what would be quarantined, and why.

Nothing is written but in a temporary folder, so the answer may name files. DICOM goes through the same code as in stage
`deidentify`, with the project's parameters where there is one, and under the key if there is one, so that `medseg data
whereis` finds what is shown here. Without a key one is made and thrown away.
"""

import secrets
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.dicom import series
from pipelines.intake import claims, listing
from pipelines.intake.examination import bounds_here, examine, settings_here
from pipelines.intake.finding import find, find_deidentified
from pipelines.scans import key
from pipelines.scans.key import Pseudonyms
from pipelines.scans.manifest import Row
from pipelines.scans.naming import Names
from pipelines.sources import readers


def check(folder: Path) -> list[dict[str, Any]]:
    """One record a scan, as the manifest would hold it. Raises ValueError if `folder` is none."""
    return [asdict(row) for row in _open_layouts(folder)] + [asdict(row) for row in _dicom(folder)]


def unread(folder: Path) -> claims.Unread:
    """What no reader opens, by its path below `folder`."""
    return claims.unread_below(folder, tuple(readers()))


def _open_layouts(folder: Path) -> list[Row]:
    """Scans in the layouts other than DICOM."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    with tempfile.TemporaryDirectory() as memory:
        listed = listing.take(folder, Path(memory) / "digests.sqlite")
    settings = settings_here()
    told = settings.data.labels, settings.data.modality
    rows = find(folder, listed, tuple(readers()), Names(_key(), show_paths=True), *told)
    return examine(rows, bounds_here(), settings.preprocess.memory_gib)


def _dicom(folder: Path) -> list[Row]:
    pseudonyms = _key()
    with tempfile.TemporaryDirectory() as scratch:
        out, memory = Path(scratch) / "deidentified", Path(scratch) / "dicom.sqlite"
        listed = listing.take(folder, Path(scratch) / "digests.sqlite")
        open_paths = claims.claimed(listed["path"].to_pylist(), folder)
        rest = listed.filter(pa.array([path not in open_paths for path in listed["path"].to_pylist()], pa.bool_()))
        names = Names(pseudonyms)
        table = claims.hide(rest, {path: names.hidden(path) for path in rest["path"].to_pylist()})
        series.bring(folder, table, out, pseudonyms, settings_here().deidentify, memory)
        found = examine(find_deidentified(out, Path(scratch) / "digests.sqlite"))
    return [replace(row, files=[replace(file, path=Path(file.path).name) for file in row.files]) for row in found]


def _key() -> Pseudonyms:
    """The project's, but none is made for it: a key to be thrown away, where there is none."""
    try:
        return key.known()
    except ValueError:
        return Pseudonyms(secrets.token_bytes(32))
