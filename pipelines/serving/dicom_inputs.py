"""DICOM among what is to be segmented: series in folders of any nesting, single files, zips -> requests.

Each series is read in a child process with bounds (pipelines/dicom/sandbox.py) and lies as a volume in a scratch folder
while it is worked on. Series of one study on one grid that show different things are the channels of one scan. A result
is called by the series' pseudonym: names of folders and UIDs tell who it is of.
"""

import shutil
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.dicom import sandbox
from pipelines.dicom.reading import looks_like_dicom
from pipelines.dicom.source import LIMITS, Found, SourceSeries, Wanted, read_series, series_in
from pipelines.intake.listing import walk
from pipelines.scans import key
from pipelines.serving.asked import Request
from pipelines.serving.scan_search import is_nifti

GIB = 1 << 30
MAX_UNPACKED_BYTES, MAX_MEMBERS, MAX_RATIO = 16 * GIB, 200_000, 200  # scans shrink to a half, empty ones to a 50th
_BLOCK = 1 << 20


def unpacked(source: Path, scratch: Path) -> Path:
    """The folder of a zip's files, by running number; anything else as it is. Raises ValueError for a bomb."""
    if not source.is_file() or is_nifti(source) or not zipfile.is_zipfile(source):
        return source
    folder = scratch / "unpacked"
    folder.mkdir()
    left = min(MAX_UNPACKED_BYTES, MAX_RATIO * source.stat().st_size, shutil.disk_usage(scratch).free // 2)
    try:
        with zipfile.ZipFile(source) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            if len(members) > MAX_MEMBERS:
                raise ValueError(f"{source.name} holds {len(members)} files, at most {MAX_MEMBERS} are read; split it")
            for number, member in enumerate(members):
                end = next((end for end in (".nii.gz", ".nii") if member.filename.lower().endswith(end)), "")
                with packed.open(member) as read, (folder / f"{number:06d}{end}").open("wb") as written:
                    while block := read.read(_BLOCK):
                        if (left := left - len(block)) < 0:
                            raise ValueError(
                                f"{source.name} unpacks to more than may be; a bomb, or too large: split it"
                            )
                        written.write(block)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise ValueError(f"{source.name} is no readable zip ({type(error).__name__}); pack it again") from None
    return folder


def has_nifti(root: Path) -> bool:
    return is_nifti(root) if root.is_file() else any(is_nifti(path) for path, _ in walk(root))


def requests_in(root: Path, target: Path, scratch: Path, modality: str | None = None) -> list[Request]:
    """Of every series found; of one that cannot be read, with the reason. `modality`: of all, whatever headers say."""
    paths = [root] if root.is_file() else sorted(path for path, _ in walk(root) if path.is_file())
    files = [path for path in paths if not is_nifti(path) and looks_like_dicom(path)]
    if not files:
        return []
    found = series_in(files, key.of_project())
    names = sorted(found.series)
    wanted = [Wanted(tuple(found.series[name]), scratch / f"{name}.nii.gz") for name in names]
    series = dict(zip(names, sandbox.each(read_series, wanted, LIMITS, "series"), strict=True))
    alone = is_nifti(target) and len(names) == 1
    return [*_requests(series, found, target, alone, modality), *_unreadable(found, target)]


def _requests(
    series: dict[str, SourceSeries | sandbox.Refused], found: Found, target: Path, alone: bool, modality: str | None
) -> Iterator[Request]:
    studies: dict[str, dict[str, SourceSeries]] = defaultdict(dict)
    for name, each in series.items():
        if isinstance(each, sandbox.Refused):
            yield Request({}, _target(target, name, alone), refused=f"the series: {each.reason}")
        else:
            studies[found.study[name]][name] = each
    for study in studies.values():
        for name, together in _on_one_grid(study):
            files = {each.role if len(together) > 1 or not modality else "": each.nifti for each in together}
            yield Request(files, _target(target, name, alone), tuple(together))


def _on_one_grid(study: dict[str, SourceSeries]) -> Iterator[tuple[str, list[SourceSeries]]]:
    """Groups of a study's series, by the first one's name; where two show the same, each is a scan of its own."""
    grids: dict[tuple[object, ...], dict[str, SourceSeries]] = defaultdict(dict)
    for name, each in study.items():
        shape = (len(each.stack.frames), *each.stack.frames[0].shape)
        grids[(shape, tuple(np.round(each.stack.affine, 2).ravel().tolist()))][name] = each
    for own in grids.values():
        if len({each.role for each in own.values()}) == len(own):
            yield next(iter(own)), list(own.values())
        else:
            yield from ((name, [each]) for name, each in own.items())


def _unreadable(found: Found, target: Path) -> Iterator[Request]:
    for number, reason in enumerate(found.refused.values(), 1):
        yield Request({}, _target(target, f"unreadable-{number}", alone=False), refused=f"a DICOM file: {reason}")


def _target(target: Path, name: str, alone: bool) -> Path:
    if alone:
        return target
    return (target.parent if is_nifti(target) else target) / f"dicom-{name}.nii.gz"
