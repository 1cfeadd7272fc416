"""Where things lie in a project: one place that knows the folders.

`data/`, `models/`, `reports/` hold what DVC tracks; `.medseg/` holds this machine's own state (databases, locks,
checkpoints), which no result depends on.
"""

from pathlib import Path

from pipelines.work import environment


def root() -> Path:
    """The project's root: $MEDSEG_ROOT, or the nearest folder upwards that holds dvc.yaml.

    Raises ValueError when there is none.
    """
    if named := environment.read().root:
        return named.resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise ValueError(f"{here} is not inside a project: no dvc.yaml here or above; change into one or set MEDSEG_ROOT")


def state_folder() -> Path:
    """This machine's own state, made if missing. An experiment that DVC runs in a folder of its own has the project's.

    (`dvc exp run --temp` and `--queue`: the folder below .dvc/tmp/exps goes, and curves in it would go along.)
    """
    folder = root() / ".medseg"
    if "/.dvc/tmp/exps/" in folder.as_posix():
        folder = Path(folder.as_posix().partition("/.dvc/tmp/exps/")[0]) / ".medseg"
    folder.mkdir(exist_ok=True)
    return folder


RAW = Path("data/raw")
PHANTOM = Path("data/phantom")
DEIDENTIFIED = Path("data/deidentified")
CODE = Path("data/code")  # one digest a stage, see pipelines/work/code.py
INVENTORY = Path("data/inventory.parquet")
MANIFEST = Path("data/manifest.parquet")
PLAN = Path("data/plan.json")
CASES = Path("data/cases")
PRETRAINED = Path("models/pretrain")
TRAINED = Path("models/train")
INGESTED = Path("reports/ingest")
PRETRAINING_REPORT = Path("reports/pretrain")
EVALUATION = Path("reports/evaluate")
REGISTERED = Path("models/register")
