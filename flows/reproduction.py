"""Make a version again, from nothing but its commit, its parameters and the raw scans; then compare.

    reproduce("models:/medsegformer/3", Path("/tmp/again"), print) -> {"verdict": "equal to the bit", ...}

The commit is cloned into a new folder, the dossier's params.yaml laid over it, and of data/raw linked what the
dossier's inventory lists. There `dvc repro` runs every stage, as nothing of the old results lies there.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flows import processes
from model import weights_file
from pipelines.release import dossier, lineage, record, run_identity
from pipelines.scans import key, naming, scan_files
from pipelines.work import project
from pipelines.work.writing import replacing

DICE_BOUND = 0.02  # where not the bits are equal: how far the mean Dice of a structure may be from what it was
TO_THE_BIT, WITHIN, DIFFERS = "equal to the bit", f"within {DICE_BOUND} of every Dice", "differs"
UNSET = ("MEDSEG_ROOT", "MLFLOW_TRACKING_URI", "MEDSEG_SESSION")  # of this project


def reproduce(model: str, folder: Path, on_line: Callable[[str], None]) -> dict[str, Any]:
    """What `compare` says. `folder`: new, outside the project. Raises ValueError if the version cannot be made again
    here: of uncommitted code, of another program, or of scans that are gone."""
    kept = lineage.locate(model)
    told = lineage.told(kept)
    _refuse_other_code(told)
    if folder.exists() or folder.resolve().is_relative_to(project.root().resolve()):
        raise ValueError(f"{folder} exists, or lies inside the project; name a new folder elsewhere with --to")
    with replacing(folder) as temporary:
        _clone(told["git_commit"], temporary)
        shutil.copyfile(kept / dossier.PARAMS, temporary / "params.yaml")
        (temporary / "dvc.lock").unlink(missing_ok=True)
        _link_scans(kept / dossier.INVENTORY, temporary)
    _run(folder, on_line)
    return {"folder": str(folder), **compare(told, record.read(kept / dossier.RECORD), folder)}


def compare(told: Mapping[str, Any], before: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Keys: `verdict`; `same_processor`, without which nobody may expect the bits; `outputs`: path -> is it the same;
    `dice`: structure -> before, now."""
    now = record.read(folder / record.FILE)
    dice = {name: (value, now["dice"].get(name)) for name, value in before["dice"].items()}
    if weights_file.digest(folder / project.TRAINED) == before["weights_sha256"] and now["dice"] == before["dice"]:
        verdict = TO_THE_BIT
    else:
        verdict = WITHIN if all(_near(*pair) for pair in dice.values()) else DIFFERS
    return {
        "verdict": verdict,
        "same_processor": told["processor"] == run_identity.processor(),
        "outputs": _outputs(told["lock"], lineage.locked(folder / "dvc.lock")),
        "dice": dice,
    }


def _near(before: float | None, now: float | None) -> bool:
    return before == now if before is None or now is None else abs(before - now) <= DICE_BOUND


def _outputs(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> dict[str, bool]:
    """Of what both locks have."""
    old, new = ({path: sha for stage in lock.values() for path, sha in stage.items()} for lock in (before, now))
    return {path: old[path] == new[path] for path in sorted(old.keys() & new.keys())}


def _refuse_other_code(told: Mapping[str, Any]) -> None:
    commit, program, here = told["git_commit"], told["program"], run_identity.program()
    for name, value in (("project", commit), ("program", program)):
        if value == "unknown" or value.endswith("-dirty"):
            raise ValueError(
                f"the version was made with code of the {name} that no commit holds ({value}); commit, run and "
                "register again to have one that can be made anew"
            )
    if program not in (commit, here):
        raise ValueError(
            f"the version was made by program {program}, this is {here}; install that one, or check it out"
        )


def _clone(commit: str, folder: Path) -> None:
    for command in (
        ["clone", "--quiet", "--no-checkout", str(project.root()), str(folder)],
        ["-C", str(folder), "checkout", "--quiet", "--detach", commit],
    ):
        done = subprocess.run(["git", *command], capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["git said nothing"])[-1]
            raise ValueError(f"commit {commit[:12]} cannot be cloned from {project.root()}: {said}; fetch it first")


def _link_scans(inventory: Path, folder: Path) -> None:
    """Under the names that they have here; and the key that the pseudonyms in manifest and inventory were made with."""
    (folder / project.RAW).mkdir(parents=True, exist_ok=True)
    own = project.state_folder() / key.OWN
    if own.is_file():
        (folder / ".medseg").mkdir(mode=0o700)
        shutil.copy(own, folder / ".medseg" / key.OWN)
    listed = pq.read_table(inventory).to_pylist() if inventory.is_file() else []
    for name in (entry["path"] for entry in listed if not entry["problem"]):
        if name.startswith(f"{naming.HIDDEN}/"):
            continue  # no layout claims it
        source = scan_files.where(f"{project.RAW.as_posix()}/{name}")
        if not (project.root() / source).is_file():
            raise ValueError(f"{project.RAW / name}: no such file any more; bring it back to make the version again")
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        _link(project.root() / source, folder / source)


def _link(file: Path, target: Path) -> None:
    """Its mode stays as it is: raw scans are never changed."""
    with suppress(OSError):
        os.link(file.resolve(), target)
        return
    shutil.copyfile(file, target)


def _run(folder: Path, on_line: Callable[[str], None]) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    ours = {name: value for name, value in os.environ.items() if name not in UNSET}
    environment = {**ours, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "dvc", "repro", "--no-run-cache"]
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    with processes.running(command, environment, cwd=folder, stdout=pipe, stderr=both) as process:
        assert process.stdout is not None
        last = ""
        for line in (raw.decode(errors="replace").rstrip() for raw in process.stdout):
            last = line or last
            on_line(line)
        if process.wait():
            raise ValueError(f"{folder}: `dvc repro` failed: {last}; what was made so far lies there")
