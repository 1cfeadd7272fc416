"""`medseg backup` and `medseg restore`: all that a project is, less its raw scans, in a folder elsewhere.

    FOLDER/20261126T020000Z/backup.json     what is in it, every file by its sha256
                           /state           .medseg: databases, weights, the audit log, dossiers, the key; no caches of
                                            training (checkpoints), no logs
                           /cache           DVC's cache, unless results lie on a remote
                           /project         parameters, dvc.lock, ledger and whatever else is no stage's output
                           /history.bundle  the git repository
                           /prefect.dump, /mlflow.dump      PostgreSQL databases that the environment names

Scans' key and results are in it: it is for the project's owner alone. Copies share what did not change.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows import dvc, lock, postgres, snapshot
from pipelines.release import run_identity
from pipelines.work import project
from pipelines.work.writing import replacing, write_json

LIST = "backup.json"
OF_A_MOMENT = {"lock", "servers", "ui", "login", "logs", "checkpoints", "copies"}  # in .medseg: not kept
CACHE = Path(".dvc/cache")


@dataclass
class Kept:
    """A copy. `new_bytes`: what it takes beside the copy before."""

    folder: Path
    files: int
    bytes: int
    new_bytes: int


def back_up(target: Path, with_results: bool = True) -> Kept:
    """A new copy in `target`, whole or not there. Raises ValueError if that lies in the project."""
    root = project.root()
    if target.is_relative_to(root):
        raise ValueError(f"{target} lies in the project; name a folder on another disk")
    with lock.held(doing="backup"):
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = _newest(target)
        known = _listed(before)["files"] if before else {}
        folder = target / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        with replacing(folder) as new:
            new.mkdir(mode=0o700)
            files = {
                f"{part}/{name}": sha256
                for part, source, left_out in _parts(root, with_results)
                for name, sha256 in snapshot.copy(
                    source, new / part, before and before / part, _of(known, part), left_out
                ).items()
            }
            files |= _dumps(new)
            said = {"made": datetime.now(UTC).isoformat(), "program": run_identity.program(), "results": with_results}
            write_json(new / LIST, {**said, "files": files})
        write_json(project.state_folder() / "backup.json", {"made": said["made"]})  # for `medseg metrics`
        return _kept(folder)


def restore(source: Path, overwrite: bool = False) -> tuple[Path, Path | None]:
    """Make this project what a copy holds: `source` itself, or the newest in it. Gives it and where former things went.

    Raises ValueError if a byte of it is not what it was, or the project has a state of its own and not `overwrite`.
    """
    folder = source if (source / LIST).is_file() else _newest(source)
    if folder is None:
        raise ValueError(f"{source} holds no copy: no {LIST} in it or below; name the folder given to `medseg backup`")
    listed, root = _listed(folder), project.root()
    if wrong := snapshot.damaged(folder, listed["files"]):
        raise ValueError(
            f"{folder}: {len(wrong)} of {len(listed['files'])} files are gone or damaged; take another copy"
        )
    if (root / ".medseg/mlflow.db").is_file() and not overwrite:
        raise ValueError(f"{root} has a registry of its own; say --overwrite, which keeps the present state beside it")
    with lock.held(doing="restore"), lock.claimed("ui") as no_servers:
        if no_servers is None:
            raise ValueError("`medseg ui` runs in this project; end it, then repeat this")
        if not _in_git(root):
            _begin_repository(root, folder / "history.bundle")
        aside = _swap(root / ".medseg", folder / "state", keep=OF_A_MOMENT)
        _fill(folder / "cache", root / CACHE, over=False)
        _fill(folder / "project", root, over=overwrite)
        for name, uri in postgres.named().items():
            if (folder / f"{name}.dump").is_file():
                postgres.restore(uri, folder / f"{name}.dump")
        if (root / "dvc.lock").is_file() and listed["results"]:
            dvc.check_out()
    return folder, aside


def _parts(root: Path, with_results: bool) -> Iterator[tuple[str, Path, Callable[[Path], bool]]]:
    """Name in the copy, folder, what is left out of it."""
    state, known = project.state_folder(), _known_to_git(root)
    yield "state", state, lambda path: path.parent == state and path.name in OF_A_MOMENT
    yield "project", root, lambda path: path not in known
    if with_results and (root / CACHE).is_dir():
        yield "cache", root / CACHE, lambda _: False


def _known_to_git(root: Path) -> set[Path]:
    """What git tracks, or would, and the folders of it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    files = {root / name for name in listed if name}
    return files | {folder for file in files for folder in file.parents if folder.is_relative_to(root)}


def _dumps(new: Path) -> dict[str, str]:
    """PostgreSQL's databases and git's history, each as one file."""
    for name, uri in postgres.named().items():
        postgres.dump(uri, new / f"{name}.dump")
    has_commits = subprocess.run(
        ["git", "rev-parse", "-q", "--verify", "HEAD"], cwd=project.root(), capture_output=True
    )
    if has_commits.returncode == 0:
        command = ["git", "bundle", "create", "-q", str(new / "history.bundle"), "--all"]
        subprocess.run(command, cwd=project.root(), check=True, capture_output=True)
    return {path.name: snapshot.sha256_of(path) for path in new.iterdir() if path.is_file()}


def _in_git(root: Path) -> bool:
    return any((each / ".git").exists() for each in (root, *root.parents))


def _begin_repository(root: Path, history: Path) -> None:
    """With the history that was kept, at the commit it was at; the files are put beside it from the copy."""
    commands = [["init", "--quiet"]]
    if history.is_file():
        commands += [["fetch", "--quiet", str(history), "+refs/*:refs/*", "--update-head-ok"], ["reset", "--quiet"]]
    for command in commands:
        subprocess.run(["git", *command], cwd=root, check=True, capture_output=True)


def _swap(state: Path, kept: Path, keep: set[str]) -> Path | None:
    """The kept state in place of the present one, which is moved into a folder beside, but what is of this moment."""
    aside = state.with_name(f".medseg.before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    former = [path for path in state.iterdir() if path.name not in keep]
    for path in former:
        aside.mkdir(mode=0o700, exist_ok=True)
        path.rename(aside / path.name)
    _fill(kept, state, over=True)
    return aside if former else None


def _fill(source: Path, target: Path, over: bool) -> None:
    """Files of a copy into a folder; those that are there stay, unless `over`."""
    for path in sorted(source.rglob("*")) if source.is_dir() else ():
        to = target / path.relative_to(source)
        if path.is_dir() and not path.is_symlink():
            to.mkdir(mode=path.stat().st_mode & 0o777, parents=True, exist_ok=True)
        elif over or not os.path.lexists(to):
            with replacing(to) as new:
                shutil.copy2(path, new, follow_symlinks=False)


def _newest(target: Path) -> Path | None:
    return max((path.parent for path in target.glob(f"*/{LIST}")), default=None)


def _listed(folder: Path) -> dict[str, Any]:
    listed: dict[str, Any] = json.loads((folder / LIST).read_text())
    return listed


def _of(known: dict[str, str], part: str) -> dict[str, str]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): sha256 for name, sha256 in known.items() if name.startswith(prefix)}


def _kept(folder: Path) -> Kept:
    stats = [path.lstat() for path in folder.rglob("*") if path.is_file()]
    new = sum(stat.st_size for stat in stats if stat.st_nlink == 1)
    return Kept(folder, len(stats), sum(stat.st_size for stat in stats), new)
