"""What a volume is, and where it lies. Reading and writing one is volume.py's, which imports nibabel.

Arrays are (D, H, W) with D towards the head, H towards the front, W towards the right of the patient (RAS+, axes
reversed), spacing in the same order. A file's own axes come back through `Geometry`, so a prediction lies exactly on
the scan it was made from.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Volume:
    """`array` (D, H, W); `spacing_mm` (D, H, W); `affine` maps the *file's* voxel (i, j, k) to RAS millimetres.

    `remarks`: what the file leaves in doubt, one sentence each, fit for the manifest.
    """

    array: np.ndarray
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    file_shape: tuple[int, int, int]
    remarks: tuple[str, ...] = ()

    @property
    def orientation(self) -> str:
        from nibabel.orientations import aff2axcodes  # half a second, and who trains asks for none

        return "".join(aff2axcodes(self.affine))


@dataclass(frozen=True)
class Geometry:
    """The way back from a network's grid to the file's. Plain numbers, so that it fits in JSON.

    `file_shape`, `affine`: the file's own grid. `shape`: the reoriented scan (D, H, W). `origin`, `crop_shape`: the
    crop in it, voxels. `spacing_mm`: of the crop before resampling.
    """

    file_shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    shape: tuple[int, int, int]
    origin: tuple[int, int, int]
    crop_shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @staticmethod
    def of(volume: Volume) -> "Geometry":
        """The geometry of an uncropped volume."""
        depth, height, width = volume.array.shape
        shape = (depth, height, width)
        affine = tuple(tuple(float(x) for x in row) for row in volume.affine)
        return Geometry(volume.file_shape, affine, shape, (0, 0, 0), shape, volume.spacing_mm)

    @property
    def whole(self) -> "Geometry":
        """Of the scan before it was cropped."""
        return replace(self, origin=(0, 0, 0), crop_shape=self.shape)

    def cropped(self, origin: tuple[int, int, int], shape: tuple[int, int, int]) -> "Geometry":
        return replace(self, origin=origin, crop_shape=shape)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> "Geometry":
        affine = tuple(tuple(row) for row in record["affine"])
        plain = {key: tuple(value) for key, value in record.items() if key != "affine"}
        return Geometry(affine=affine, **plain)


@dataclass(frozen=True)
class Outline:
    """What a file's header announces: `shape`, `spacing_mm` (D, H, W) as in Volume, and its free text."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    description: str
