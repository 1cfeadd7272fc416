"""`medseg init`: a folder becomes a project that the installed program works on.

    make(folder, "smoke", upgrade=False) -> Made

What is there is never changed, so a repeat is safe, and finishes one that was cut off: dvc.yaml, which makes a folder a
project, is written first. What the program may renew says in its first line what it was written as; by it `upgrade`
knows whether it was changed since.
"""

import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from pipelines.params import profiles
from pipelines.work import project
from pipelines.work.writing import replacing

USUAL_PROFILE = "smoke"
# Name in the project -> name in pipelines/shipped. Not `dvc.yaml` there, too: DVC would take it for the project's where
# the environment lies in the project.
RENEWED = {"dvc.yaml": "stages.yaml"}
OTHERS = {
    ".gitignore": "gitignore",
    ".dvc/config": "dvc-config",
    ".dvc/.gitignore": "dvc-gitignore",
    "structures.yaml": "structures.yaml",
    "release/plan.yaml": "plan.yaml",
    "release/card.yaml": "card.yaml",
    "README.md": "README.md",
}
HEAD = (
    "# Written by medsegformer {}; while unchanged, `medseg init . --upgrade` renews it. sha256 of what follows: {}\n"
)
HEAD_READ = re.compile(re.escape(HEAD.strip()).replace(r"\{\}", r"(\S+)"))


@dataclass
class Made:
    """What was done. `is_new`: the folder was no project before; `remarks`: what a person may want to do."""

    is_new: bool
    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def make(folder: Path, profile: str | None = None, upgrade: bool = False) -> Made:
    """Write what is not there yet. Raises ValueError if the folder is no place for a project, or git is missing."""
    made = Made(is_new=not (folder / "dvc.yaml").is_file())
    if made.is_new:
        _refuse(folder)
    has_git = any((each / ".git").exists() for each in (folder, *folder.parents))
    if not has_git and not shutil.which("git"):
        raise ValueError("git is not installed, and DVC works in a git repository only; install it, then repeat this")
    settings = profiles.compose(profile or USUAL_PROFILE)  # refused before anything is written
    for name, shipped in RENEWED.items():
        _renew(folder / name, (project.SHIPPED / shipped).read_text(), upgrade, made)
    for name, shipped in OTHERS.items():
        _write(folder, name, (project.SHIPPED / shipped).read_text(), made)
    _write(folder, "params.yaml", settings, made)
    if profile and "params.yaml" in made.kept and profiles.in_use() != profile:
        made.remarks.append(f"params.yaml stays; `medseg profile use {profile}` puts the profile in its place")
    if not has_git:
        subprocess.run(["git", "init", "--quiet", str(folder)], check=True, capture_output=True)
    return made


def _refuse(folder: Path) -> None:
    """Tells no file's name: it may be a patient's."""
    if outer := project.above(folder.parent):
        raise ValueError(f"{folder} lies inside the project {outer}; name a folder outside of it")
    if folder.exists() and (not folder.is_dir() or any(each.name != ".git" for each in folder.iterdir())):
        raise ValueError(
            f"{folder} is neither empty nor a project; name a new folder. Scans stay where they are: "
            "`medseg run --data FOLDER` reads them there"
        )


def _write(folder: Path, name: str, text: str, made: Made) -> None:
    if (folder / name).exists():
        made.kept.append(name)
    else:
        _put(folder / name, text)
        made.written.append(name)


def _renew(path: Path, installed: str, upgrade: bool, made: Made) -> None:
    """A file that is the program's as long as nobody changes it."""
    whole = HEAD.format(metadata.version("medsegformer"), _sha256(installed)) + installed
    present = path.read_text() if path.exists() else ""
    head, _, body = present.partition("\n")
    written = HEAD_READ.fullmatch(head)
    version = written[1] if written and written[2] == _sha256(body) else None  # None: somebody changed it since
    if not present or (version and upgrade and body != installed):
        _put(path, whole)
        made.written.append(path.name)
        return
    made.kept.append(path.name)
    if version and body != installed:
        made.remarks.append(
            f"{path.name} is that of version {version}; `medseg init {path.parent} --upgrade` renews it"
        )
    elif installed not in (present, body):
        shipped = (project.SHIPPED / RENEWED[path.name]).resolve()
        made.remarks.append(f"{path.name} was changed here and stays; the program's is {shipped}")


def _put(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
