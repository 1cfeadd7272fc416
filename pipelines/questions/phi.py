"""`medseg data audit-phi`: does anything that identifies a patient lie in what the project wrote?

    audit() -> dict      keys ok, found, files, bytes, values, left_out, unread, not_covered

Collects every identifying value from the DICOM files below data/raw, and from the names of all files and folders there,
and searches every byte of everything else in the project for it: outputs, state, databases, documents, git's history;
but not the program and its environment. It reports the file and the kind of value, never the value. Where it knows no
value it proves nothing, and says so. What it cannot see is in the result, too.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from pipelines import params
from pipelines.dicom import identity
from pipelines.dicom.needles import Needles
from pipelines.questions import file_contents, raw_names
from pipelines.work import project
from pipelines.work.progress import track

# The program itself, its environment, and caches of its tools. A version may look like a date.
PROGRAM = frozenset({"flows", "pipelines", "model", "tests", "benchmarks"})  # where the project is the source checkout
NOT_SEARCHED = {
    ".venv", ".bench", ".bench-brats", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".import_linter_cache",
    "__pycache__", "requirements.lock", "requirements-gpu.lock",
}  # fmt: skip
ON_PURPOSE = (".medseg/raw-files.json",)  # what pseudonyms stand for: with the raw files, for their owner alone


def search() -> dict[str, Any]:
    """Search the project. `ok`: something to search for, and nothing found. `found`: one entry a file, with kinds."""
    root = project.root()
    settings = params.load(root / "params.yaml").deidentify
    known = identity.collect(root / project.RAW, settings.retain_device)
    return search_project(root, replace(known, values=known.values | raw_names.collect(root / project.RAW)))


def search_project(root: Path, known: identity.Identity) -> dict[str, Any]:
    """Search a project for what is known to identify."""
    files = sorted(_artefacts(root))
    needles = Needles(known.values, _ordinary_words(), _first_day(files))
    found, not_covered = [], _not_covered()
    if values := needles.kinds():
        found = [entry for path in track(files, len(files), "audit-phi") if (entry := _search(path, root, needles))]
        try:
            found += _search_git(root, needles)
        except OSError as error:
            not_covered.append(f"git's history ({error})")
    return {
        "ok": bool(values) and not found,
        "found": found,
        "files": len(files),
        "bytes": sum(path.lstat().st_size for path in files if path.exists()),
        "dicom_files": known.files,
        "values": values,
        "left_out": dict(needles.left_out),
        "unread": known.unread,
        "not_covered": not_covered,
    }


def _artefacts(root: Path) -> Iterator[Path]:
    """Every file of the project but the program; data/raw is what it must not have passed on."""
    left_out = {root / project.RAW, *(root / name for name in (*NOT_SEARCHED, *ON_PURPOSE, *_program(root)))}
    seen = set()
    for here, folders, files in os.walk(root, followlinks=True):  # models may lie on another disk
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        kept = [folder for folder in folders if Path(here) / folder not in left_out and folder != "__pycache__"]
        folders[:] = [folder for folder in kept if not (folder == "objects" and Path(here).name == ".git")]
        yield from (path for path in (Path(here) / file for file in files) if path not in left_out)


def _program(root: Path) -> frozenset[str]:
    """Folders of the program in the project. Elsewhere a folder called `tests` is no program's, and may hold scans."""
    return PROGRAM if (root / "pipelines" / "__main__.py").is_file() else frozenset()


def _search_git(root: Path, needles: Needles) -> list[dict[str, Any]]:
    """One entry an object of git's history in which something was found."""
    found = []
    for name, content in file_contents.in_git(root, _program(root)):
        if kinds := {kind for piece in file_contents.packed(content) for kind in needles.found_in(piece)}:
            found.append({"file": f".git (object {name[:12]})", "kinds": sorted(kinds), "in_name": False})
    return found


def _search(path: Path, root: Path, needles: Needles) -> dict[str, Any] | None:
    """What was found in a file's name and content, or None. A file that vanished meanwhile is no finding."""
    name = path.relative_to(root).as_posix()
    in_name = needles.found_in(os.fsencode(name))
    kinds = set(in_name)
    try:
        if path.is_symlink():
            kinds |= needles.found_in(os.fsencode(path.readlink()))
        elif path.is_file():
            for piece in file_contents.pieces(path, needles.longest):
                kinds |= needles.found_in(piece)
    except FileNotFoundError:
        return None
    if not kinds:
        return None
    shown = f"{path.parent.relative_to(root).as_posix()}/..." if in_name else name
    return {"file": shown, "kinds": sorted(kinds), "in_name": bool(in_name)}


def _ordinary_words() -> frozenset[str]:
    """Words of the program's own text: a patient called Grace cannot be told from MEDSEG_GRACE_S."""
    here = Path(__file__).parents[2]
    sources = [path for package in ("flows", "pipelines", "model") for path in (here / package).rglob("*.py")]
    return frozenset(word for path in sources for word in re.findall(r"[a-z]{3,}", path.read_text().lower()))


def _first_day(files: list[Path]) -> date:
    """The day of the oldest artefact: from then on dates also occur as the project's own time stamps."""
    times = [path.lstat().st_mtime for path in files if path.exists()]
    return date.fromtimestamp(min(times)) if times else date.today()


def _not_covered() -> list[str]:
    """Places outside this machine's files, which this search cannot see."""
    remote = [name for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL") if "://" in os.environ.get(name, "")]
    local = [name for name in remote if os.environ[name].startswith(("sqlite:", "file:"))]
    return [f"the server that {name} names" for name in remote if name not in local]
