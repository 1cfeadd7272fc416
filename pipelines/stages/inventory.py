"""List every raw file with its sha256 (DVC stage `inventory`).

Reads   data/raw (a folder, or a link to one), structures.yaml, modalities.yaml
Writes  data/inventory.parquet: path, bytes, sha256, problem; pseudonyms in place of paths that may name somebody
        data/structures.json: what the vocabulary says of the structures that the scans' labels mean
        data/modalities.json: likewise, of the modalities that their channels show
        .medseg/raw-files.json: what they stand for, on this machine only
Run     python -m pipelines inventory       # 15,000 unchanged files: a second; new ones at the disk's speed

DVC could hash the folder itself, but stops the whole pipeline at one dangling link or unreadable file. Here such a file
gets a row with its problem, and ingest quarantines the scan it belongs to. The stage is asked at every run; when no
file changed, its output is the same to the byte and nothing after it runs. A digest is remembered by size, time and
inode in `.medseg/` so that an unchanged file is read once.
"""

import logging
from collections.abc import Sequence

import pyarrow.parquet as pq

from pipelines import params
from pipelines.intake import claims, used_structures
from pipelines.scans import key, manifest, scan_files
from pipelines.work import environment, project
from pipelines.work.writing import replacing, write_json

log = logging.getLogger(__name__)


def main() -> None:
    settings = params.load()  # first stage: bad parameters, or a missing key, stop here, before anything runs
    _refuse_without_scans(sources := settings.data.sources)
    project.RAW.mkdir(parents=True, exist_ok=True)
    _refuse_another_key(sources)
    table = claims.current()
    with replacing(project.INVENTORY) as temporary:
        pq.write_table(table, temporary)
    paths = scan_files.paths(table["path"].to_pylist())
    for path, content in used_structures.of_scans(paths, project.RAW, settings.data).items():
        write_json(path, content)
    log.info(
        "inventory: %d files, %d unreadable", table.num_rows, table.num_rows - table["problem"].to_pylist().count("")
    )


def _refuse_without_scans(sources: Sequence[str]) -> None:
    """A clone that has results and no raw scans must not take these for gone: all would be made anew, of nothing."""
    here = project.RAW.is_dir() and any(project.RAW.iterdir())
    if here or not project.MANIFEST.is_file() or set(sources) == {"phantom"}:
        return
    needed = sum(file.path.startswith(f"{project.RAW}/") for row in manifest.read() for file in row.files)
    if needed or manifest.key_of():
        raise ValueError(
            f"{project.RAW} is missing or empty, and {project.MANIFEST} was made from scans there ({needed} files); "
            f"link them with `medseg run --data DIR`, or remove {project.MANIFEST} to begin without them"
        )


def _refuse_another_key(sources: Sequence[str]) -> None:
    """Under another key every pseudonym, and with it the split, would change unasked."""
    known = manifest.key_of()
    pseudonyms = key.load() if "dicom" in sources else key.of_project()
    if not known or pseudonyms.fingerprint() == known:
        return
    if environment.read().key_file is None:
        raise ValueError(
            f"the pseudonyms in {project.MANIFEST} were made with another key than this clone's own; name it in "
            f"{key.VARIABLE}, or copy .medseg/{key.OWN} from the clone that made them; to give everybody a new "
            f"pseudonym, and a split drawn anew, remove {project.MANIFEST}"
        )
    log.warning("inventory: another key than before: every pseudonym changes, and splits are drawn anew")
