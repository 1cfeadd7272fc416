"""The checks a radiographer would make of a scan and its label, before anybody trains on them.

Pure functions of voxels and geometry: no file, no name. What they find is either `refused` (the scan cannot be used) or
a note (it is kept, and shown). Bounds: params.yaml, ingest.quality. All arrays (D, H, W) = head, front, right.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.params.quality_bounds import Quality
from pipelines.scans import vocabulary
from pipelines.scans.modalities import in_hu
from pipelines.scans.structure import IGNORED
from pipelines.scans.volume_geometry import Volume

HEAD, FRONT, RIGHT = range(3)
FOOT_, BACK_, LEFT_ = (~axis for axis in (HEAD, FRONT, RIGHT))  # the other way along the same axis

# Which side of the body a structure lies on, and how two structures lie to each other, whoever the patient is (situs
# inversus, one in 10,000, aside). Each centroid is compared.
SIDES = {"spleen": LEFT_, "stomach": LEFT_, "liver": RIGHT, "gallbladder": RIGHT}
RELATIONS = (
    ("hippocampus_anterior", FRONT, "hippocampus_posterior"),
    ("left_ventricle", LEFT_, "right_ventricle"),
    ("spleen", LEFT_, "liver"),
    ("stomach", LEFT_, "liver"),
    ("spleen", LEFT_, "gallbladder"),
    ("kidney", HEAD, "urinary_bladder"),
    ("kidney_left", LEFT_, "kidney_right"),
    ("lung_left", LEFT_, "lung_right"),
    ("adrenal_gland_left", LEFT_, "adrenal_gland_right"),
    ("liver", HEAD, "urinary_bladder"),
    ("lung", HEAD, "liver"),
)
_PLACED = sorted({name for one, _, other in RELATIONS for name in (one, other)} | set(SIDES))
_WORDS = {HEAD: "above", FRONT: "in front of", RIGHT: "right of", FOOT_: "below", BACK_: "behind", LEFT_: "left of"}
_HU_LOWEST, _HU_AIR, _HU_AIR_SHARE = -3100.0, -900.0, 0.01  # padding; air; as little of it shows in a crop
_CT_BONE_HU = 1500.0  # a full-range CT of any body part goes beyond
_WHOLE = 0.05  # of the widest column of the body: as little at the border means that all of it is in view
_SAMPLES = 10_000  # of a percentile; its error is far below that of the level itself


@dataclass(frozen=True)
class Finding:
    """One sentence, `check: what was found`, with value and bound. `refused`: the scan cannot be used."""

    text: str
    refused: bool = False


def findings(
    images: Mapping[str, Volume], structures: np.ndarray | None, bounds: Quality | None, nominal_frame: bool = False
) -> list[Finding]:
    """Of volumes on one grid, before training as before a prediction. `bounds` None: only what makes them unusable."""
    constant = [
        Finding(f"intensity: {modality}: every voxel has the same value", refused=True)
        for modality, volume in images.items()
        if np.ptp(volume.array) == 0
    ]
    return constant or ([] if bounds is None else examine(images, structures, bounds, nominal_frame))


def examine(
    images: Mapping[str, Volume], structures: np.ndarray | None, bounds: Quality, nominal_frame: bool = False
) -> list[Finding]:
    """All findings of one scan. `images`: modality -> volume, all on one grid; `structures`: ids on that grid, or None.

    `nominal_frame`: the source's headers do not say the patient's sides, so these are not checked.
    """
    reference = next(iter(images.values()))
    found = [Finding(remark) for volume in images.values() for remark in volume.remarks]
    found += geometry(reference, bounds)
    axis = int(np.argmax(reference.spacing_mm))
    blank = np.zeros(reference.array.shape[axis], dtype=bool)
    for modality, volume in images.items():
        low, high = _slice_range(volume.array, axis)
        found += strange_values(modality, volume.array, float(low.min()), float(high.max()), bounds)
        found += slices(modality, volume.array, axis, low == high, bounds)
        blank |= low == high
    if structures is not None and not structures.any():
        found.append(Finding("label: empty", refused=True))
    elif structures is not None:
        modality, volume = next(iter(images.items()))
        air = _air_level(modality, volume.array, bounds)
        found += label(volume, structures, air, np.flatnonzero(blank), axis, bounds)
        if not nominal_frame:
            found += sides(volume, structures, air, bounds)
    return list(dict.fromkeys(found))


def geometry(volume: Volume, bounds: Quality) -> Iterator[Finding]:
    """Field of view, voxel size and the axes' angles."""
    spacing_mm = np.array(volume.spacing_mm)
    extent_mm = np.array(volume.array.shape) * spacing_mm
    low, high = bounds.extent_mm
    if np.sort(extent_mm)[1] < low or extent_mm.max() > high:
        text = f"field of view: {_by(extent_mm)} mm is outside [{low:g}, {high:g}]; the spacing is wrong"
        yield Finding(text, refused=True)
    low, high = bounds.spacing_mm
    if spacing_mm.min() < low or spacing_mm.max() > high:
        yield Finding(f"spacing: {_by(spacing_mm)} mm is outside [{low:g}, {high:g}]")
    if (ratio := spacing_mm.max() / spacing_mm.min()) > bounds.anisotropy:
        yield Finding(
            f"spacing: {_by(spacing_mm)} mm is {ratio:.3g} times longer than wide, above {bounds.anisotropy:g}"
        )
    if (count := volume.array.shape[int(np.argmax(spacing_mm))]) < bounds.min_slices:
        yield Finding(f"slices: {count}, below {bounds.min_slices}")
    yield from _angles(volume.affine, bounds)


def _angles(affine: np.ndarray, bounds: Quality) -> Iterator[Finding]:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = directions.T @ directions - np.eye(3)
    if (shear_deg := float(np.degrees(np.arcsin(np.abs(cosines).max().clip(0, 1))))) > bounds.shear_deg:
        text = f"orientation: axes are {shear_deg:.3g} degrees off the right angle, above {bounds.shear_deg:g}"
        yield Finding(f"{text}; resample the tilted scan", refused=True)
    if (
        turned_deg := float(np.degrees(np.arccos(np.abs(directions).max(axis=0).clip(0, 1))).max())
    ) > bounds.oblique_deg:
        yield Finding(f"orientation: turned by {turned_deg:.3g} degrees from the patient's axes")


def strange_values(modality: str, array: np.ndarray, low: float, high: float, bounds: Quality) -> Iterator[Finding]:
    """Do the values fit the modality? `low`, `high`: their range."""
    if in_hu(modality):
        yield from _ct_intensity(modality, array, low, high, bounds)
    elif _HU_LOWEST <= low <= _HU_AIR and _share(array < bounds.ct_air_hu) > _HU_AIR_SHARE:
        yield Finding(f"intensity: called {modality}, but its values are Hounsfield units", refused=True)
    elif low < 0 and (share := _share(array < 0)) > bounds.stray_fraction:
        yield Finding(f"intensity: {share:.1%} of {modality} is negative; normalised before?")


def _ct_intensity(name: str, array: np.ndarray, low: float, high: float, bounds: Quality) -> Iterator[Finding]:
    told = f"intensity: {name} from {low:g} to {high:g}"
    if high - low < bounds.ct_span_hu:
        yield Finding(f"{told} spans less than {bounds.ct_span_hu:g} HU; windowed or rescaled", refused=True)
    elif low >= 0:
        yield Finding(f"{told} has no negative value: no Hounsfield units, or no intercept", refused=True)
    elif low > bounds.ct_air_hu:
        yield Finding(f"intensity: {name} without air, lowest {low:g} HU; windowed, or a crop")
    if high < _CT_BONE_HU and (share := _share(array == high)) > bounds.stray_fraction:
        yield Finding(f"intensity: {share:.1%} of {name} has its highest value {high:g} HU; windowed")
    least, most = bounds.ct_range_hu
    if low < least or high > most:
        share = _share((array < least) | (array > most))
        if share > bounds.stray_fraction:
            yield Finding(
                f"intensity: {share:.1%} of {name} is outside [{least:g}, {most:g}] HU; padding, or other units"
            )


def slices(modality: str, array: np.ndarray, axis: int, constant: np.ndarray, bounds: Quality) -> Iterator[Finding]:
    """Slices that repeat another or hold nothing. `axis`: the slices'. `constant`: bool by slice."""
    count, filled = len(constant), np.flatnonzero(~constant)
    repeats = _repeats(array, axis, filled)
    if repeats:
        refused = len(repeats) > bounds.repeated_slices * count
        yield Finding(f"slices: {len(repeats)} of {count} in {modality} repeat another ({_listed(repeats)})", refused)
    if not len(filled):
        return
    inner = [int(at) for at in np.flatnonzero(constant) if filled[0] < at < filled[-1]]
    if inner:
        yield Finding(f"slices: {len(inner)} of {count} inside {modality} are empty ({_listed(inner)})")
    end = max(int(filled[0]), count - 1 - int(filled[-1]))
    if end > bounds.empty_end * count:
        yield Finding(f"slices: {end} of {count} at one end of {modality} are empty; truncated export?")


def _repeats(array: np.ndarray, axis: int, candidates: np.ndarray) -> list[int]:
    """Slices equal to an earlier one, not only a neighbour: an export may append a series twice."""
    stack = np.moveaxis(array, axis, 0)
    coarse = stack[:, :: max(1, stack.shape[1] // 16), :: max(1, stack.shape[2] // 16)]
    first: dict[bytes, int] = {}
    repeats = []
    for at in candidates.tolist():
        earlier = first.setdefault(coarse[at].tobytes(), at)
        if earlier != at and np.array_equal(stack[at], stack[earlier]):
            repeats.append(at)
    return repeats


def label(
    image: Volume, structures: np.ndarray, air: float, blank: np.ndarray, axis: int, bounds: Quality
) -> Iterator[Finding]:
    """Volume of each structure, and where the label lies. `air`: below is no tissue. `blank`: empty slices of axis."""
    box = _box(structures)
    within = np.where(structures[box] == IGNORED, 0, structures[box])
    counts = np.bincount(within.ravel())
    voxel_mm3 = float(np.prod(image.spacing_mm))
    whole_mm3 = float(counts[1:].sum()) * voxel_mm3
    if whole_mm3 < (least := bounds.tiny_mm3["default"]):
        yield Finding(f"label: {whole_mm3:.3g} mm3 in all, below {least:g}", refused=True)
    else:
        by_id = vocabulary.here().by_id
        for value in (np.flatnonzero(counts[1:]) + 1).tolist():
            name, volume_mm3 = by_id[value].name, float(counts[value]) * voxel_mm3
            if volume_mm3 < (least := bounds.tiny_mm3.get(name, bounds.tiny_mm3["default"])):
                yield Finding(f"label: {name} has {volume_mm3:.3g} mm3, below {least:g}")
    outside = (within > 0) & (image.array[box] < air)
    if len(blank):
        start = box[axis].start
        here = [at - start for at in blank.tolist() if start <= at < box[axis].stop]
        taken = np.moveaxis(outside, axis, 0)
        taken[here] = np.moveaxis(within, axis, 0)[here] > 0
    share = float(np.count_nonzero(outside)) / max(1, int(counts[1:].sum()))
    if share > bounds.on_air:
        refused = share > bounds.on_air_refused
        bound = bounds.on_air_refused if refused else bounds.on_air
        yield Finding(f"label: {share:.0%} of it lies on air, above {bound:.0%}", refused)


def sides(image: Volume, structures: np.ndarray, air: float, bounds: Quality) -> Iterator[Finding]:
    """Structures on the wrong side of the body or of each other: a mirrored scan, or a header that lies."""
    box = _box(structures)
    within = structures[box]
    words, present = vocabulary.here(), set(np.unique(within).tolist())
    inside = {name: sorted(present & set(words.covered_ids(name))) for name in _PLACED if name in words}
    centre = {name: _centroid(np.isin(within, ids), box) for name, ids in inside.items() if ids}
    for one, direction, other in RELATIONS:
        if one in centre and other in centre:
            axis, sign = (direction, 1) if direction >= 0 else (~direction, -1)
            wrong_mm = sign * (centre[other][axis] - centre[one][axis]) * image.spacing_mm[axis]
            if wrong_mm > bounds.side_margin_mm:
                text = f"left-right: {one} is not {_WORDS[direction]} {other}, but {wrong_mm:.0f} mm the other way"
                yield Finding(text if axis == RIGHT else text.replace("left-right", "orientation"))
    if sided := sorted(set(SIDES) & set(centre)):
        yield from _beyond_midline(image, air, {name: centre[name][RIGHT] for name in sided}, bounds)


def _beyond_midline(image: Volume, air: float, at: Mapping[str, float], bounds: Quality) -> Iterator[Finding]:
    """Only where the whole width of the body is in view does its middle say anything."""
    columns = np.count_nonzero(image.array > air, axis=(HEAD, FRONT)).astype(float)
    if max(columns[0], columns[-1]) > _WHOLE * columns.max():
        return
    midline = float(columns @ np.arange(len(columns)) / columns.sum())
    width = float(np.count_nonzero(columns > _WHOLE * columns.max()))
    for name, place in at.items():
        beyond = (place - midline) / width * (1 if SIDES[name] == LEFT_ else -1)
        if beyond > bounds.side_margin:
            side = "left" if SIDES[name] == LEFT_ else "right"
            yield Finding(f"left-right: {name} is not on the patient's {side}, but {beyond:.0%} beyond the midline")


def _slice_range(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    others = tuple(other for other in range(3) if other != axis)
    return array.min(axis=others), array.max(axis=others)


def _air_level(modality: str, array: np.ndarray, bounds: Quality) -> float:
    if in_hu(modality):
        return bounds.ct_air_hu
    sample = array.ravel()[:: max(1, array.size // _SAMPLES)]
    return bounds.mr_air * float(np.percentile(sample, 99))


def _box(structures: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box around the label, which is not empty; one axis after the other, each in what is left."""
    box = [slice(0, size) for size in structures.shape]
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        line = np.flatnonzero(structures[tuple(box)].any(axis=others))
        box[axis] = slice(int(line[0]), int(line[-1]) + 1)
    d, h, w = box
    return d, h, w


def _centroid(mask: np.ndarray, box: tuple[slice, slice, slice]) -> list[float]:
    """Voxels (d, h, w) in the whole array."""
    result = []
    for axis in range(3):
        line = np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis))
        result.append(float(line @ np.arange(len(line)) / line.sum()) + box[axis].start)
    return result


def _share(mask: np.ndarray) -> float:
    return float(np.count_nonzero(mask)) / mask.size


def _by(values: np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:5])
    return shown + (", ..." if len(numbers) > 5 else "")
