"""List every raw file with its sha256 (DVC stage `inventory`).

Reads   data/raw (a folder, or a link to one)
Writes  data/inventory.parquet: path, bytes, sha256, problem; `hidden/PSEUDONYM` in place of a DICOM file's path
Run     python -m pipelines inventory       # 15,000 unchanged files: a second; new ones at the disk's speed

DVC could hash the folder itself, but stops the whole pipeline at one dangling link or unreadable file. Here such a file
gets a row with its problem, and ingest quarantines the scan it belongs to. The stage is asked at every run; when no
file changed, its output is the same to the byte and nothing after it runs. A digest is remembered by size, time and
inode in `.medseg/` so that an unchanged file is read once.
"""

import logging

import pyarrow.parquet as pq

from pipelines import params
from pipelines.intake import claims
from pipelines.work import project
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)


def main() -> None:
    params.load()  # first stage: bad parameters, or a missing key, stop here, before anything runs
    project.RAW.mkdir(parents=True, exist_ok=True)
    table = claims.current()
    with replacing(project.INVENTORY) as temporary:
        pq.write_table(table, temporary)
    log.info(
        "inventory: %d files, %d unreadable", table.num_rows, table.num_rows - table["problem"].to_pylist().count("")
    )
