"""Turn DICOM series into volumes that name nobody (DVC stage `deidentify`).

Reads   data/inventory.parquet, DICOM files and NIfTI labels below data/raw, params.yaml: data.sources, deidentify
Writes  data/deidentified/PATIENT/STUDY-SERIES.json with the volumes and labels beside, all named by keyed pseudonyms
Run     MEDSEG_KEY_FILE=... python -m pipelines deidentify      # 5 series of 120 slices on 2 cores: some seconds

Series are found by UID, in folders of any nesting; slices are sorted by position. What cannot be used gets a record
with the reason. A series is done again only if one of its files, a label, the parameters, the key or this code changed:
the stage's output persists between runs. Without `dicom` among data.sources the folder is empty and no key is asked.
"""

from pipelines import params
from pipelines.dicom import series
from pipelines.intake import listing
from pipelines.scans import key, parquet
from pipelines.work import project
from pipelines.work.writing import replacing


def main() -> None:
    settings = params.load()
    if "dicom" not in settings.data.sources:
        with replacing(project.DEIDENTIFIED) as folder:
            folder.mkdir()
        return
    listed = parquet.read(project.INVENTORY, listing.SCHEMA)
    memory = project.state_folder() / "dicom.sqlite"
    series.bring(project.RAW, listed, project.DEIDENTIFIED, key.load(), settings.deidentify, memory)
