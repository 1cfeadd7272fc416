"""Volumes from files and into them: with nifti.py, the only module that knows image formats and orientation.

How a volume is held, and the way back to the file's own axes, is volume_geometry.py's.
"""

import logging
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from pipelines.scans import nifti
from pipelines.scans.nifti import VolumeError as VolumeError
from pipelines.scans.volume_geometry import Geometry, Outline, Volume
from pipelines.work.writing import replacing

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what it mends silently, we report ourselves


def outline(path: Path) -> Outline:
    """From the header alone; no voxel is read. Raises VolumeError with the reason if it is not a usable one."""
    shape, affine, description = nifti.announced(path)
    turned = affine @ inv_ornt_aff(io_orientation(affine), shape)
    order = [int(np.flatnonzero(io_orientation(affine)[:, 0] == axis)[0]) for axis in (2, 1, 0)]
    spacing_mm = np.linalg.norm(turned[:3, :3], axis=0)[::-1]
    return Outline(_three([shape[axis] for axis in order]), _three_floats(spacing_mm.round(6)), description)


def read(path: Path) -> Volume:
    """Read a NIfTI file, float32, reoriented. Raises VolumeError with the reason if it is not a usable 3-D scan."""
    file = nifti.load(path)
    if not np.isfinite(file.data).all():
        bad = int(file.data.size - np.isfinite(file.data).sum())
        raise VolumeError(f"{bad} voxels are NaN or infinite; re-export the scan")
    return replace(reoriented(file.data, file.affine), remarks=file.remarks)


def reoriented(data: np.ndarray, affine: np.ndarray) -> Volume:
    """Voxels (i, j, k) of a file as they are held here."""
    orientation = io_orientation(affine)
    canonical = apply_orientation(data, orientation)
    turned = affine @ inv_ornt_aff(orientation, data.shape)
    spacing_mm = np.linalg.norm(turned[:3, :3], axis=0)[::-1]
    array = np.ascontiguousarray(canonical.transpose(2, 1, 0))
    # 6 digits: a float32 header's 1.5 must not become 1.4999999 in the manifest
    return Volume(array, _three_floats(spacing_mm.round(6)), np.asarray(affine, dtype=float), _three(data.shape))


def same_grid(one: Volume, other: Volume, tolerance: float = 0.02) -> str:
    """Empty if both lie on one grid, in whatever order of axes their files hold it, else the difference in words.

    `tolerance`: at each of the eight corners, in voxels. Headers round: 0.01 mm in one of 0.5 mm.
    """
    if one.array.shape != other.array.shape:
        return f"shape {one.file_shape} differs from {other.file_shape}"
    depth, height, width = one.array.shape
    corners = np.array([[*at, 1] for at in product((0, width - 1), (0, height - 1), (0, depth - 1))], dtype=float).T
    apart_mm = (_canonical(one) - _canonical(other)) @ corners
    apart = float(np.abs(np.linalg.solve(_canonical(one)[:3, :3], apart_mm[:3])).max())
    if apart <= tolerance:
        return ""
    distance_mm = float(np.linalg.norm(apart_mm[:3], axis=0).max())
    return f"affine differs by {distance_mm:.3g} mm ({apart:.2g} voxels) at a corner from that"


def _canonical(volume: Volume) -> np.ndarray:
    """Affine of the reoriented voxels (w, h, d)."""
    return np.asarray(volume.affine @ inv_ornt_aff(io_orientation(volume.affine), volume.file_shape))


def restore(label: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A label map of the crop (crop_shape) -> the file's own grid, (i, j, k), background outside the crop.

    In memory as NIfTI has it, i the fastest."""
    if label.shape != geometry.crop_shape:
        raise ValueError(f"label {label.shape} does not fit the crop {geometry.crop_shape}")
    full = np.zeros(geometry.shape, dtype=label.dtype)
    full[tuple(slice(o, o + n) for o, n in zip(geometry.origin, geometry.crop_shape, strict=True))] = label
    orientation = io_orientation(np.asarray(geometry.affine))
    file_axes = full.transpose(2, 1, 0).transpose(orientation[:, 0].astype(int))
    return np.asfortranarray(file_axes[tuple(slice(None, None, int(flip)) for flip in orientation[:, 1])])


def write_label(path: Path, label: np.ndarray, affine: np.ndarray, description: str = "") -> None:
    """Write a label map on the file's own grid (i, j, k), as `restore` gives it, as NIfTI, whole or not at all.

    In its own type: uint8, int16 or int32. `description`: the header's free text, up to 79 characters.
    """
    if label.dtype not in (np.uint8, np.int16, np.int32):
        raise ValueError(f"a label map of {label.dtype} is not written; it must be uint8, int16 or int32")
    image = nib.Nifti1Image(label, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("ascii")
    with replacing(path) as temporary:
        nib.save(image, temporary)


def _three(values: Any) -> tuple[int, int, int]:
    d, h, w = (int(value) for value in values)
    return d, h, w


def _three_floats(values: Any) -> tuple[float, float, float]:
    d, h, w = (float(value) for value in values)
    return d, h, w
