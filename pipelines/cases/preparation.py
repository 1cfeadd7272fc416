"""One scan -> network input.

Reorient, crop to content, normalise by modality, resample. `prepare` is all a prediction needs, so training and
prediction cannot differ. What of the cohort it depends on is a `Preprocessing`, which the plan decides and the weights
file carries.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cases.resampling import resample, resampled_shape
from pipelines.scans.modalities import in_hu
from pipelines.scans.volume_geometry import Geometry, Volume

CT_AIR_HU = -500.0  # between lung and soft tissue: the body's outline
WINDOW, Z_SCORE = "window", "z_score"
_SLAB_VOXELS = 1 << 20  # float64 work is done in slabs of so many voxels: 8 MB instead of twice the scan


@dataclass(frozen=True)
class CTScale:
    """Clip to [`low`, `high`] HU, then subtract `mean` and divide by `std`; of the training cohort's foreground."""

    low: float
    high: float
    mean: float
    std: float


@dataclass(frozen=True)
class SourceRecord:
    """What a model must know of a source it was trained on, to meet a new scan of its kind.

    `spacing_mm`: the network's grid. `native_spacing_mm`: median of the scans' own. `normalisation`: WINDOW or
    Z_SCORE. `patch_size`: voxels (D, H, W), stated or planned; empty in weights older than the plan. `always`: those of
    `modalities` that every training scan had.
    """

    modalities: tuple[str, ...]
    annotated: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    native_spacing_mm: tuple[float, float, float]
    normalisation: str = WINDOW
    patch_size: tuple[int, ...] = ()
    always: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preprocessing:
    """All that turning a scan into network input depends on; travels inside the weights file.

    `units`: HU or none by modality, as pipelines.scans.modalities had them; empty in weights older than it.
    """

    ct: CTScale
    sources: dict[str, SourceRecord]
    units: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "Preprocessing":
        sources = {name: SourceRecord(**_with_tuples(own)) for name, own in record["sources"].items()}
        return Preprocessing(CTScale(**record["ct"]), sources, dict(record.get("units", {})))

    @property
    def modalities(self) -> tuple[str, ...]:
        """All that were trained on."""
        return tuple(sorted({name for record in self.sources.values() for name in record.modalities}))


def _with_tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}


def load(path: Path) -> Preprocessing:
    """From plan.json or preprocessing.json. Raises ValueError if there is none yet."""
    if not path.is_file():
        raise ValueError(f"{path}: not there yet; `medseg run` or `dvc repro preprocess` writes it")
    return Preprocessing.from_json(json.loads(path.read_text()))


def prepare(
    scan: Mapping[str, Volume], spacing_mm: tuple[float, float, float], ct: CTScale, normalisation: str = WINDOW
) -> tuple[np.ndarray, Geometry]:
    """A scan's volumes by modality, all on one grid -> network input (C, D, H, W) float32, channels sorted by modality.

    The geometry leads from the input's crop back to the file's grid.
    """
    first = next(iter(scan.values()))
    origin, shape = bounding_box(content_of(scan))
    geometry = Geometry.of(first).cropped(origin, shape)
    box = geometry_box(geometry)
    target = resampled_shape(shape, first.spacing_mm, spacing_mm)
    image = np.empty((len(scan), *target), dtype=np.float32)
    for channel, modality in enumerate(sorted(scan)):
        window = ct if in_hu(modality) and normalisation == WINDOW else None
        image[channel] = resample(_normalised(scan[modality].array[box], window), target, order=3)
    return image, geometry


def content_of(scan: Mapping[str, Volume]) -> np.ndarray:
    """Bool (D, H, W): where any modality shows something: what is in HU above air, all else non-zero."""
    content = np.zeros(next(iter(scan.values())).array.shape, dtype=bool)
    for modality, volume in scan.items():
        content |= volume.array > CT_AIR_HU if in_hu(modality) else volume.array != 0
    return content


def bounding_box(content: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Origin and shape of the smallest box around True; the whole volume if there is none."""
    if not content.any():
        d, h, w = content.shape
        return (0, 0, 0), (d, h, w)
    spans = []
    for axis in range(3):
        line = np.flatnonzero(content.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append((int(line[0]), int(line[-1] - line[0] + 1)))
    (d, nd), (h, nh), (w, nw) = spans
    return (d, h, w), (nd, nh, nw)


def geometry_box(geometry: Geometry) -> tuple[slice, ...]:
    return tuple(slice(o, o + n) for o, n in zip(geometry.origin, geometry.crop_shape, strict=True))


def _normalised(array: np.ndarray, window: CTScale | None) -> np.ndarray:
    if window is None:
        return _z_score(array)
    result = array.clip(window.low, window.high)
    result -= window.mean
    result /= window.std
    return result


def _z_score(array: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 over the non-zero part; float32. In float64, slab by slab."""
    mean, deviation = moments(array[array != 0])
    if deviation is None:
        return array
    result = np.empty(array.shape, dtype=np.float32)
    rows = max(1, _SLAB_VOXELS // max(1, array[0].size))
    for start in range(0, len(array), rows):
        slab = slice(start, start + rows)
        result[slab] = (array[slab].astype(np.float64) - mean) / max(deviation, 1e-6)
    return result


def moments(values: np.ndarray) -> tuple[float, float | None]:
    """Mean and deviation of a line of values, in float64; deviation None of no values."""
    if not values.size:
        return 0.0, None
    slabs = [values[start : start + _SLAB_VOXELS] for start in range(0, values.size, _SLAB_VOXELS)]
    mean = sum(float(slab.sum(dtype=np.float64)) for slab in slabs) / values.size
    square = sum(float(((slab.astype(np.float64) - mean) ** 2).sum()) for slab in slabs) / values.size
    return mean, square**0.5
