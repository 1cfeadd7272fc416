"""What a prediction is asked for: which scans lie in a file or folder, and where the label map of each goes.

A label map never replaces what it was made from, nor lies where the next prediction would take it for a scan.
"""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.scans import modalities
from pipelines.scans.volume import VolumeError, outline

log = logging.getLogger(__name__)

MADE_HERE = "medsegformer label map"  # how the free text of every label map that predictions write begins
ENDINGS = (".nii.gz", ".nii")
_NOT_SCANS = ("_seg", "_gt", "segmentation")


@dataclass(frozen=True)
class Request:
    """One scan. `files`: by modality, "" where the name does not say. `target`: of its label map."""

    files: dict[str, Path]
    target: Path

    @property
    def told_as(self) -> str:
        return ", ".join(str(file) for file in self.files.values())


def requests(source: Path, target: Path) -> list[Request]:
    """The scans of `source` (file or folder) and their targets; nothing is written.

    `target`: a folder, or for a single scan a file. Raises ValueError if there is no scan, or if a label map would
    replace a scan or lie among them.
    """
    scans = find_scans(source)
    _check_target(source, target)
    found = [
        Request(files, target if source.is_file() and _is_nifti(target) else target / f"{name}{ENDINGS[0]}")
        for name, files in scans.items()
    ]
    inputs = {_identity(file): file for request in found for file in request.files.values()}
    for request in found:
        if request.target.exists() and (scan := inputs.get(_identity(request.target))):
            raise ValueError(f"{request.target} is the scan {scan} itself; name another OUTPUT")
    return found


def find_scans(source: Path) -> dict[str, dict[str, Path]]:
    """Scans in a file or folder: name -> modality -> file. Modality "" where the name does not say.

    A name is the path below the folder, so that `a/imaging` and `b/imaging` stay two scans. Label maps that a
    prediction wrote are left out. Raises ValueError if there is no scan, or if two files claim one place (x.nii beside
    x.nii.gz).
    """
    if source.is_file():
        if is_made_here(source):
            raise ValueError(f"{source} is a label map that `medseg predict` wrote, no scan")
        return {_stem(source): {"": source}}
    if not source.is_dir():
        raise ValueError(f"{source} is neither a file nor a folder")
    scans: dict[str, dict[str, Path]] = {}
    suffixes = _suffixes()
    own = 0
    for path in sorted(path for path in source.rglob("*") if _is_nifti(path)):
        stem = _stem(path)
        if stem.lower().endswith(_NOT_SCANS):
            continue
        if is_made_here(path):
            own += 1
            continue
        suffix = max((s for s in suffixes if stem.lower().endswith(s)), key=len, default="")
        name = (path.relative_to(source).parent / stem[: len(stem) - len(suffix)]).as_posix()
        taken = scans.setdefault(name, {}).setdefault(suffixes.get(suffix, ""), path)
        if taken != path:
            raise ValueError(f"{taken} and {path.name} are the same scan twice; keep one")
    if own:
        log.info("predict: left out %d label maps that `medseg predict` wrote", own)
    if not scans:
        raise ValueError(f"{source} holds no NIfTI scan (*.nii.gz, *.nii)")
    return scans


def _suffixes() -> dict[str, str]:
    """How a file's name ends -> the modality that it says."""
    known = modalities.here().values()
    return {
        f"_{re.sub('[ -]', '_', called.lower())}": each.name for each in known for called in (*each.synonyms, each.name)
    }


def is_made_here(path: Path) -> bool:
    """Is it a label map that a prediction wrote? A file that cannot be read is none."""
    return description_of(path).startswith(MADE_HERE)


def description_of(path: Path) -> str:
    try:
        return outline(path).description
    except VolumeError:
        return ""


def _check_target(source: Path, target: Path) -> None:
    if source.is_dir():
        if target.resolve().is_relative_to(source.resolve()):
            raise ValueError(
                f"OUTPUT {target} lies in INPUT {source}: its label maps would lie among the scans; name a folder "
                f"outside, such as {source.resolve().parent / (source.resolve().name + '-labels')}"
            )
        if target.is_file() or _is_nifti(target):
            raise ValueError(f"OUTPUT {target} must be a folder, since INPUT is one")
    elif target.suffix and not target.name.endswith(ENDINGS) and not target.is_dir():
        raise ValueError(
            f"OUTPUT {target.name}: label maps are written as .nii.gz or .nii, or into a folder; rename it"
        )


def _identity(path: Path) -> tuple[int, int]:
    """Of the file itself, whatever link or name leads to it; a missing one is like no other."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return (-1, hash(path))
    return status.st_dev, status.st_ino


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def _stem(path: Path) -> str:
    ending = next((each for each in ENDINGS if path.name.lower().endswith(each)), "")
    return path.name[: len(path.name) - len(ending)]
