"""What a prediction is asked for: which scans lie in a file or folder, and where the results of each go.

A label map never replaces what it was made from, nor lies where the next prediction would take it for a scan. Logs and
tables call a scan as a published data set does, or by its place among the scans in the order of their names: `scan 3`.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from pipelines.scans import channels
from pipelines.scans.naming import published
from pipelines.serving import dicom_inputs
from pipelines.serving.asked import Request
from pipelines.serving.scan_search import ENDINGS, find_scans, is_nifti


def requests(source: Path, target: Path, scratch: Path | None = None, modality: str | None = None) -> list[Request]:
    """The scans of `source` (file, folder or zip) and their targets; nothing is written but below `scratch`.

    `target`: a folder, or for a single scan a file. `scratch`: where DICOM series go as volumes; without it only NIfTI
    is looked for. `modality`: of what a series shows, instead of what its header says. Raises ValueError
    if there is no scan, or if a label map would replace a scan or lie among them.
    """
    _check_target(source, target)
    root = dicom_inputs.unpacked(source, scratch) if scratch else source
    series = dicom_inputs.requests_in(root, target, scratch, modality) if scratch else []
    scans = {} if series and not dicom_inputs.has_nifti(root) else find_scans(root)
    found = [
        Request(
            files,
            target if source.is_file() and is_nifti(target) else target / f"{name}{ENDINGS[0]}",
            called=name if _is_published(files.values(), root) else f"scan {number}",
        )
        for number, (name, files) in enumerate(scans.items(), 1)
    ]
    inputs = {_identity(file): file for request in found for file in request.files.values()}
    for request in found:
        if request.target.exists() and (scan := inputs.get(_identity(request.target))):
            raise ValueError(f"{request.target} is the scan {scan} itself; name another OUTPUT")
    return [*found, *series]


def _check_target(source: Path, target: Path) -> None:
    if source.is_dir():
        if target.resolve().is_relative_to(source.resolve()):
            raise ValueError(
                f"OUTPUT {target} lies in INPUT {source}: its label maps would lie among the scans; name a folder "
                f"outside, such as {source.resolve().parent / (source.resolve().name + '-labels')}"
            )
        if target.is_file() or is_nifti(target):
            raise ValueError(f"OUTPUT {target} must be a folder, since INPUT is one")
    elif target.suffix and not target.name.endswith(ENDINGS) and not target.is_dir():
        raise ValueError(
            f"OUTPUT {target.name}: label maps are written as .nii.gz or .nii, or into a folder; rename it"
        )


def _is_published(files: Iterable[Path], root: Path) -> bool:
    """Do the names below `root` say nothing of a person?"""
    folder = root if root.is_dir() else root.parent
    return all(published(channels.file_of(file).relative_to(folder).as_posix()) for file in files)


def _identity(path: Path) -> tuple[int, int]:
    """Of the file itself, whatever link or name leads to it; a missing one is like no other."""
    try:
        status = os.stat(channels.file_of(path))  # noqa: PTH116
    except OSError:
        return (-1, hash(path))
    return status.st_dev, status.st_ino
