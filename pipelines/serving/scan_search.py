"""Which scans lie in a folder that is to be segmented, in whatever layout: the readers of pipelines/sources say it.

What no reader claims goes by its own name: `NAME_flair.nii.gz` and `NAME_t1ce.nii.gz` are one scan, `NAME_0000` and
`NAME_0001` its channels, anything else is a scan by itself. Labels are no scans, nor are the label maps that
predictions wrote.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath

from pipelines.intake.listing import walk
from pipelines.scans import channels, modalities
from pipelines.scans.volume import VolumeError, outline
from pipelines.sources import readers, scans_in, stem_of

log = logging.getLogger(__name__)

MADE_HERE = "medsegformer label map"  # how the free text of every label map that predictions write begins
ENDINGS = (".nii.gz", ".nii")
_INDEX_FOLDER = re.compile(r"images", re.IGNORECASE)
_NOT_SCANS = re.compile(r"(?:^|[_-])(?:d?seg|seg-.*|gt|mask|labels?|probseg)$|segmentation(?:-\d+)?$", re.IGNORECASE)
_LABEL_FOLDER = re.compile(r"labels?(?:tr|ts|va|val)?|masks?|segmentations?", re.IGNORECASE)
_SUFFIXED = re.compile(r"(?P<name>.+)[_-](?P<suffix>[^_-]+)")
_BIDS = re.compile(r"(?:.*/)?sub-[^/]+/(?:.*/)?sub-[^/]+")
MAX_CHANNELS = 16  # beyond, a number of four digits is a year or a running number


def find_scans(source: Path) -> dict[str, dict[str, Path]]:
    """Scans in a file or folder: name -> modality -> file; "", or numbers of channels, where names do not say.

    A name is the path below the folder, so that `a/imaging` and `b/imaging` stay two scans. Raises ValueError if there
    is no scan, or if two files claim one place (x.nii beside x.nii.gz).
    """
    if source.is_file():
        if is_made_here(source):
            raise ValueError(f"{source} is a label map that `medseg predict` wrote, no scan")
        return {stem_of(source.name): {"": source}}
    if not source.is_dir():
        raise ValueError(f"{source} is neither a file nor a folder")
    paths = sorted(path for path, _ in walk(source) if path.is_file())
    made_here = {path for path in paths if is_nifti(path) and is_made_here(path)}
    scans, labels = _of_layouts(source, paths, made_here)
    claimed = {channels.file_of(path) for files in scans.values() for path in files.values()}
    rest = [path for path in paths if is_nifti(path) and path not in claimed | labels | made_here]
    for name, files in _by_names(source, rest).items():
        scans[name if name not in scans else _stem(next(iter(files.values())), source)] = files
    _refuse_twice(source, [*claimed, *(path for path in rest if not _is_label(path.relative_to(source)))])
    if made_here:
        log.info("predict: left out %d label maps that `medseg predict` wrote", len(made_here))
    if not scans:
        raise ValueError(f"{source} holds no NIfTI scan (*.nii.gz, *.nii)")
    return dict(sorted(scans.items()))


def _of_layouts(
    source: Path, paths: Sequence[Path], made_here: set[Path]
) -> tuple[dict[str, dict[str, Path]], set[Path]]:
    """Scans that a reader claims, whatever their labels mean; and what belongs to them and is none."""
    root = source.parent if _INDEX_FOLDER.match(source.name) and (source.parent / "dataset.json").is_file() else source
    index = [root / "dataset.json"] if root != source else []
    listed = [path.relative_to(root).as_posix() for path in (*paths, *index)]
    scans: dict[str, dict[str, Path]] = {}
    others: set[Path] = set()
    free = set(paths) - made_here
    for scan in scans_in(listed, root, {}, readers()):
        others |= {root / path for path in (*scan.labels, *scan.unread)}
        images = {role: root / path for role, path in scan.images.items()}
        images = {role: path for role, path in images.items() if channels.file_of(path) in free}
        if images:
            stems = [_stem(path, source) for path in images.values()]
            name = _common(stems)
            scans[stems[0] if name in scans else name] = images
    return scans, others


def _common(stems: list[str]) -> str:
    """What the names of a scan's images have in common, up to a `_` or `-`; of one, without what says its modality."""
    folder, own = PurePosixPath(stems[0]).parent, PurePosixPath(stems[0]).name
    if len(set(stems)) == 1:
        match = _SUFFIXED.fullmatch(own)
        said = match is not None and (match["suffix"] == "0000" or modalities.here().find(match["suffix"]))
        return (folder / match["name"]).as_posix() if match is not None and said else stems[0]
    words = [re.split(r"([_-]+)", PurePosixPath(stem).name) for stem in stems]
    common = "".join(same[0] for same in takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False)))
    common = common.rstrip("_-")
    return (folder / (common or folder.name or own)).as_posix()


def _by_names(source: Path, paths: Iterable[Path]) -> dict[str, dict[str, Path]]:
    scans: dict[str, dict[str, Path]] = {}
    present = {_stem(path, source) for path in paths}
    for path in paths:
        stem = _stem(path, source)
        if _is_label(path.relative_to(source)):
            continue
        name, role = _parted(stem, present)
        if role or not _BIDS.fullmatch(stem):
            scans.setdefault(name, {}).setdefault(role, path)
        else:
            log.info("predict: left out %s: its suffix is no modality", path)
    return scans


def _parted(stem: str, present: set[str]) -> tuple[str, str]:
    """A scan's name, and the modality or the number of a channel that its last word says, if it does."""
    match = _SUFFIXED.fullmatch(stem)
    if match is None:
        return stem, ""
    name, suffix = match["name"], match["suffix"]
    if re.fullmatch(r"\d{4}", suffix) and int(suffix) < MAX_CHANNELS and f"{name}_0000" in present:
        return name, str(int(suffix))
    return (name, modality) if (modality := modalities.here().find(suffix)) else (stem, "")


def _is_label(path: Path) -> bool:
    """By its name, or its folder's."""
    return bool(_NOT_SCANS.search(stem_of(path.name)) or any(map(_LABEL_FOLDER.fullmatch, path.parts[:-1])))


def _refuse_twice(source: Path, paths: Iterable[Path]) -> None:
    found: dict[str, Path] = {}
    for path in sorted(paths):
        if (taken := found.setdefault(_stem(path, source), path)) != path:
            raise ValueError(f"{taken} and {path.name} are the same scan twice; keep one")


def _stem(path: Path, source: Path) -> str:
    file = channels.file_of(path).relative_to(source)
    return (file.parent / stem_of(file.name)).as_posix()


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def is_made_here(path: Path) -> bool:
    """Is it a label map that a prediction wrote? A file that cannot be read is none."""
    return description_of(path).startswith(MADE_HERE)


def description_of(path: Path) -> str:
    try:
        return outline(path).description
    except VolumeError:
        return ""
