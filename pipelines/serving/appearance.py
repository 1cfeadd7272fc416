"""What a scan looks like in numbers, as the network is shown it: grid, intensities, grain, where it is bright.

    appearance(image, modalities, geometry) -> {"voxel": (3,), "field": (3,), "intensity.MR": (13,), ...}

Taken of the preprocessed scan, (D, H, W) = head, front, right: an MR is normalised by its own mean and deviation there,
so that its scale does not matter, and a CT by the cohort's window, so that wrong units do. Some milliseconds for a
scan of any size: what is large is looked at in steps. Imports no torch. C channels, D H W voxels.
"""

from collections.abc import Sequence

import numpy as np

from pipelines.scans.volume_geometry import Geometry

VOXEL, FIELD, INTENSITY, GRAIN, PLACES = "voxel", "field", "intensity", "grain", "places"
PERCENTILES = (0.5, 5, 15, 25, 40, 50, 60, 75, 85, 95, 99.5)
CELLS = 4  # along each axis, of the picture in `PLACES`
SAMPLES = 1 << 17  # voxels looked at: percentiles to a hundredth of a deviation
_AXES = ("foot to head", "back to front", "left to right")
_LEAST = 1e-6  # a change that has a logarithm


def appearance(image: np.ndarray, modalities: Sequence[str], geometry: Geometry) -> dict[str, np.ndarray]:
    """`image` (C, D, H, W) and its `modalities` as `pipelines.cases.preparation` orders them. Each float64.

    VOXEL and FIELD are logarithms of mm, of the scan before it was cropped and resampled.
    """
    voxel_mm = np.asarray(geometry.spacing_mm)
    found = {VOXEL: np.log(voxel_mm), FIELD: np.log(voxel_mm * geometry.shape)}
    for modality, channel in zip(modalities, image, strict=True):
        found[f"{INTENSITY}.{modality}"] = _intensity(channel)
        found[f"{GRAIN}.{modality}"] = _grain(channel)
        found[f"{PLACES}.{modality}"] = _places(channel)
    return found


def names(group: str) -> list[str]:
    """Of the numbers of a group, in words."""
    kind = group.partition(".")[0]
    if kind in (VOXEL, FIELD):
        return [f"{axis}, mm" for axis in _AXES]
    if kind == INTENSITY:
        return [*(f"percentile {level:g}" for level in PERCENTILES), "share at the lowest", "share at the highest"]
    if kind == GRAIN:
        return [f"{what} from {axis}" for axis in _AXES for what in ("change", "roughness")]
    cells = np.ndindex(CELLS, CELLS, CELLS) if kind == PLACES else ()
    return [f"mean of part {', '.join(str(at + 1) for at in cell)} of {CELLS} from foot, back, left" for cell in cells]


def shown(group: str, value: float) -> float:
    """A number as people know it: mm instead of its logarithm."""
    return float(np.exp(value)) if group in (VOXEL, FIELD) else float(value)


def _intensity(channel: np.ndarray) -> np.ndarray:
    """Percentiles, and the roots of the shares of voxels at the lowest and the highest value, where clipping shows."""
    seen = _thinned(channel)
    low, high = float(seen.min()), float(seen.max())
    edge = 1e-3 * (high - low)
    ends = [float(np.mean(seen <= low + edge)), float(np.mean(seen >= high - edge))]
    return np.asarray([*np.percentile(seen, PERCENTILES), *np.sqrt(ends)])


def _grain(channel: np.ndarray) -> np.ndarray:
    """By axis: mean change from voxel to voxel, and how much rougher than straight it is; logarithms. Noise is rough,
    what was blurred or resampled is smooth."""
    found = []
    for axis in range(3):
        steps = max(1, round((channel.size / SAMPLES) ** (1 / 2)))
        other = tuple(slice(None) if at == axis else slice(None, None, steps) for at in range(3))
        change = np.diff(channel[other].astype(np.float32), axis=axis)
        bend = np.diff(change, axis=axis)
        mean = float(np.abs(change).mean()) if change.size else 0.0
        rough = float(np.abs(bend).mean()) if bend.size else 0.0
        found += [np.log(mean + _LEAST), np.log((rough + _LEAST) / (mean + _LEAST))]
    return np.asarray(found)


def _places(channel: np.ndarray) -> np.ndarray:
    """Means of 4 x 4 x 4 parts, (64,): a picture so coarse that patients are alike in it, and organs are not."""
    seen = _thinned(channel)
    for axis, size in enumerate(seen.shape):
        starts = np.minimum(np.arange(CELLS) * size // CELLS, size - 1)
        ends = np.append(starts[1:], size)
        sums = np.add.reduceat(seen, starts, axis=axis)
        counts = np.maximum(ends - starts, 1).astype(np.float32)
        seen = sums / counts.reshape([-1 if at == axis else 1 for at in range(3)])
    return seen.ravel().astype(np.float64)


def _thinned(channel: np.ndarray) -> np.ndarray:
    """Float32, each axis in steps that leave about SAMPLES voxels."""
    step = max(1, round((channel.size / SAMPLES) ** (1 / 3)))
    return np.asarray(channel[::step, ::step, ::step], np.float32)
