"""Where things lie in a project: one place that knows the folders.

`data/`, `models/`, `reports/` hold what DVC tracks; `.medseg/` holds this machine's own state (databases, locks,
checkpoints), which no result depends on.
"""

import os
import stat
from pathlib import Path

from pipelines.work import environment

# What comes with the program: in a wheel whole files, in the source checkout links to its own.
SHIPPED = Path(__file__).parents[1] / "shipped"
DOCUMENTS = (SHIPPED / "docs").resolve()


def root() -> Path:
    """The project's root. Raises ValueError when there is none."""
    if found := find():
        return found
    raise ValueError(
        f"{Path.cwd()} is not inside a project: no dvc.yaml here or above; change into one, or make one with "
        "`medseg init DIR`"
    )


def find() -> Path | None:
    """$MEDSEG_ROOT, or the nearest folder upwards that holds dvc.yaml, if any."""
    if named := environment.read().root:
        return named.resolve()
    return above(Path.cwd())


def above(here: Path) -> Path | None:
    """The nearest folder from here upwards that is a project, if any."""
    return next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), None)


def home() -> Path:
    """The project's root, also for an experiment that DVC runs in a folder of its own (`--temp`, `--queue`)."""
    found = root()
    before, within, _ = found.as_posix().partition("/.dvc/tmp/exps/")
    return Path(before) if within else found


def state_folder() -> Path:
    """This machine's own state, made if missing, for its owner alone.

    An experiment has that of its project: its own folder goes, and curves in it would go along.
    """
    folder = state_path()
    _for_owner_alone(folder)
    return folder


def state_path() -> Path:
    """The same, whether it is there or not."""
    return home() / ".medseg"


def link_scans() -> None:
    """Give an experiment the raw scans of its project; git, which fills its folder, does not know them."""
    theirs = home() / RAW
    if home() != root() and theirs.exists() and not (own := root() / RAW).exists():
        own.parent.mkdir(exist_ok=True)
        own.symlink_to(theirs.resolve())


def keep_private() -> None:
    """Close the folders that hold scans and what is made of them to other users, where a run begins."""
    for name in ("data", "models", "reports", ".dvc/cache"):
        folder = root() / name
        if not folder.is_symlink() and folder.parent.is_dir():  # what a link leads to has rules of its own
            _for_owner_alone(folder)


def _for_owner_alone(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if stat.S_IMODE(found.st_mode) & 0o077 and found.st_uid == os.getuid():
        folder.chmod(0o700)


RAW = Path("data/raw")
PHANTOM = Path("data/phantom")
DEIDENTIFIED = Path("data/deidentified")
CODE = Path("data/code")  # one digest a stage, see pipelines/work/code.py
INVENTORY = Path("data/inventory.parquet")
STRUCTURES = Path("data/structures.json")  # of the vocabulary, what the scans use; see pipelines/stages/inventory.py
MODALITIES = Path("data/modalities.json")  # likewise, of modalities.yaml
MANIFEST = Path("data/manifest.parquet")
PLAN = Path("data/plan.json")
CASES = Path("data/cases")
PRETRAINED = Path("models/pretrain")
TRAINED = Path("models/train")
INGESTED = Path("reports/ingest")
PRETRAINING_REPORT = Path("reports/pretrain")
EVALUATION = Path("reports/evaluate")
REGISTERED = Path("models/register")
