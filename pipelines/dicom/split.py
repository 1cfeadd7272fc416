"""Frames of one series -> one list of frames a volume: a series of two echoes or ten time points holds several.

split(frames) -> Parts     the volumes, and by what they were told apart where that was inferred
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from pipelines.dicom.frames import Frame
from pipelines.dicom.reading import DicomError
from pipelines.work.wording import counted

SAME_PLACE_MM = 0.01
RANKED = (
    "trigger",
    "phase",
    "time",
    "acquisition",
    "acquisition time",
)  # keys whose order at one place is the volumes' order


@dataclass(frozen=True)
class Parts:
    """The volumes of a series. `note`: by what they were told apart, where that is inferred and not stated."""

    volumes: list[list[Frame]]
    note: str = ""


def split(frames: list[Frame], min_slices: int) -> Parts:
    """The frames of a series by volume, each of which shows every place of the series.

    What tells volumes apart is an attribute or up to three together; else the rank of a time among the images of a
    place, since every slice of a gated or triggered series has its own. Raises DicomError if the frames do not lie on
    one grid, DuplicatedError if nothing tells them apart.
    """
    _refuse_mixed(frames)
    places = _places(frames)
    if len(set(places)) == len(frames):
        return Parts([frames])
    if (count := len(set(places))) < min_slices:
        raise DuplicatedError(
            f"several slices at one place with different pixels, and {counted(count, 'place')} where at least "
            f"{min_slices} make a volume"
        )
    counts = Counter(places).values()
    if min(counts) != max(counts):
        raise DuplicatedError(
            f"several slices at one place with different pixels, {min(counts)} to {max(counts)} of them by place; "
            "they make no whole volumes"
        )
    values = {name: [frame.keys.get(name) for frame in frames] for name in _names(frames)}
    for chosen in (names for size in (1, 2, 3) for names in combinations(values, size)):
        if volumes := _told_apart(frames, places, list(zip(*map(values.get, chosen), strict=True))):
            return Parts(volumes)
    for ranked, other in product([name for name in RANKED if name in values], [None, *values]):
        others = values[other] if other else [None] * len(frames)
        ranks = _ranks(list(zip(places, others, strict=True)), values[ranked])
        if ranks and (volumes := _told_apart(frames, places, list(zip(others, ranks, strict=True)))):
            return Parts(volumes, f"volumes told apart by the order of the {ranked} at each place")
    raise DuplicatedError("several slices at one place with different pixels, and no attribute tells them apart")


def split_by_number(frames: list[Frame], min_slices: int, refusal: "DuplicatedError") -> Parts:
    """By the order of the images' numbers at each place: the last resort. Raises `refusal` if that tells nothing."""
    places = _places(frames)
    ranks = _ranks(places, [frame.number for frame in frames])
    if len(set(places)) >= min_slices and (volumes := _told_apart(frames, places, ranks)):
        return Parts(volumes, "volumes told apart by the order of the image number at each place")
    raise refusal


def _names(frames: list[Frame]) -> list[str]:
    return list(dict.fromkeys(name for frame in frames for name in frame.keys))


def _told_apart(frames: list[Frame], places: list[int], keys: list[Any]) -> list[list[Frame]]:
    """The frames by key, in order of the keys, if the frames of every key show every place once; else nothing."""
    found = defaultdict(list)
    for k, key in enumerate(keys):
        found[key].append(k)
    count = len(set(places))
    if any(len(own) != count or len({places[k] for k in own}) != count for own in found.values()):
        return []
    return [[frames[k] for k in found[key]] for key in sorted(found, key=_sortable)]


def _sortable(key: Any) -> Any:
    """Values that are absent come first."""
    several = key if isinstance(key, tuple) else (key,)
    return [(value is not None, "" if value is None else value) for value in several]


def _ranks(groups: list[Any], values: list[Any]) -> list[int]:
    """The rank of every value in its group; nothing if one is absent, or twice in a group."""
    own = defaultdict(list)
    for group, value in zip(groups, values, strict=True):
        own[group].append(value)
    if any(None in several or len(set(several)) < len(several) for several in own.values()):
        return []
    ranks = {group: {value: rank for rank, value in enumerate(sorted(several))} for group, several in own.items()}
    return [ranks[group][value] for group, value in zip(groups, values, strict=True)]


class DuplicatedError(DicomError):
    """Several frames at one place; the caller may find that their pixels are the same, too."""


def without_copies(frames: list[Frame], digests: list[str]) -> list[Frame]:
    """One frame of each place, if all there hold the same pixels (`digests`); else nothing."""
    kept: dict[int, tuple[Frame, str]] = {}
    for place, frame, digest in zip(_places(frames), frames, digests, strict=True):
        if kept.setdefault(place, (frame, digest))[1] != digest:
            return []
    return [frame for frame, _ in kept.values()]


def _refuse_mixed(frames: Iterable[Frame]) -> None:
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        listed = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(shapes)[:4])
        raise DicomError(f"slices of {len(shapes)} sizes in one series: {listed}")
    first = next(iter(frames))
    for frame in frames:
        if abs(frame.row @ first.row - 1) > 1e-4 or abs(frame.column @ first.column - 1) > 1e-4:
            raise DicomError("slices of several orientations in one series")
        if max(abs(one / other - 1) for one, other in zip(frame.spacing_mm, first.spacing_mm, strict=True)) > 1e-3:
            raise DicomError("slices of several pixel spacings in one series")
        if frame.inverted != first.inverted:
            raise DicomError("MONOCHROME1 and MONOCHROME2 in one series")


def _places(frames: list[Frame]) -> list[int]:
    """The number of each frame's place along the normal; those within SAME_PLACE_MM of each other share one."""
    along = np.array([frame.position_mm for frame in frames]) @ frames[0].normal
    order = np.argsort(along, kind="stable")
    places = np.zeros(len(frames), dtype=int)
    places[order[1:]] = np.cumsum(np.diff(along[order]) > SAME_PLACE_MM)
    return [int(place) for place in places]
