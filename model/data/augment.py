"""One training patch out of a case: what chance decides, and which region of the case that needs.

    region = read_region(case.image, case.label, centre_vox, (48, 64, 48), draw(config, (48, 64, 48), spacing_mm, rng))
    image, label = region.to(device).augmented()

The draw is a few numbers from numpy's generator, made on the CPU: the same generator state gives the same patch. The
region is read where the case lies, in the loader. `augmented` is computed on the device that holds the region:
rotation, scaling, elastic deformation and flip are one resampling (model/data/deform.py), then come the intensities
(model/data/intensity.py). Only the noise depends on the kind of device, by its generator of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.data.deform import resample
from model.data.intensity import ChannelDraw, change_intensity, draw_channel
from model.network.config import ANISOTROPY_LIMIT


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; all zero gives the plain crop. Ranges are symmetric and uniform unless stated."""

    spatial_probability: float = 1.0  # of rotation, scaling and deformation; a plain crop otherwise, which is sharper
    rotation_rad: float = 0.3  # about each axis
    scale: float = 0.25  # zoom between 1 / (1 + scale) and 1 + scale, log-uniform
    elastic_mm: float = 2.0  # standard deviation of the displacement of the control points
    elastic_cell_mm: float = 16.0  # distance between control points
    elastic_probability: float = 0.5
    flip_probability: float = 0.0  # of each of `flip_axes`; off, since left and right are different organs
    intensity_shift: float = 0.2  # in units of the normalised image (standard deviations)
    intensity_scale: float = 0.2
    gamma: float = 0.0  # exponent between 1 / (1 + gamma) and 1 + gamma, log-uniform
    noise: float = 0.0  # upper bound of the standard deviation
    flip_axes: tuple[int, ...] = (0, 1, 2)  # (2,) mirrors left and right only, in the pipeline's orientation
    blur_mm: float = 0.0  # upper bound of the Gaussian's standard deviation
    blur_probability: float = 0.0
    low_resolution: float = 0.0  # voxels become up to 1 + low_resolution times as long
    low_resolution_probability: float = 0.0


PLAIN_CROP = AugmentConfig(1, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Draw:
    """What chance decided for one sample.

    `matrix` (3, 3): voxel offsets in the patch to voxel offsets in the case. `control` (3, d, h, w): displacement of
    control points in voxels of the case, or None. `channels`: one for every channel of the image.
    """

    matrix: np.ndarray
    control: np.ndarray | None
    channels: tuple[ChannelDraw, ...]

    @property
    def is_crop(self) -> bool:
        return self.control is None and np.array_equal(np.abs(self.matrix), np.eye(3))


@dataclass(frozen=True)
class Region:
    """The part of a case that a patch of `shape` needs: `image` (C, D, H, W) float32, `label` (D, H, W) uint8.

    `corner`: where the region's first voxel lies, in voxels from the patch's centre voxel.
    """

    image: Tensor
    label: Tensor
    corner: tuple[int, int, int]
    shape: tuple[int, ...]
    draw: Draw

    def to(self, device: torch.device) -> Region:
        image, label = (tensor.to(device, non_blocking=True) for tensor in (self.image, self.label))
        return replace(self, image=image, label=label)

    def pin_memory(self) -> Region:
        return replace(self, image=self.image.pin_memory(), label=self.label.pin_memory())

    def augmented(self) -> tuple[Tensor, Tensor]:
        """Image (C, d, h, w) float32, linearly interpolated; label (d, h, w) uint8, each class interpolated linearly
        and the largest kept."""
        if self.draw.is_crop:
            flipped = [axis - 3 for axis in range(3) if self.draw.matrix[axis, axis] < 0]
            patch, mask = self.image.flip(flipped), self.label.flip(flipped)
        else:
            matrix, control = self.draw.matrix, self.draw.control
            patch, mask = resample(self.image, self.label, self.corner, self.shape, matrix, control)
        return change_intensity(patch, self.draw.channels), mask


def sample_patch(
    image: Any,
    label: Any,
    centre_vox: Sequence[float],
    patch_shape: Sequence[int],
    spacing_mm: Sequence[float],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """All of it at once, on the CPU."""
    return read_region(
        image, label, centre_vox, patch_shape, draw(config, image.shape[0], patch_shape, spacing_mm, rng)
    ).augmented()


def draw(
    config: AugmentConfig, channels: int, shape: Sequence[int], spacing_mm: Sequence[float], rng: np.random.Generator
) -> Draw:
    """Deformation is in millimetres; an axis more than twice as coarse as the finest is only cropped and flipped."""
    thick = [mm > ANISOTROPY_LIMIT * min(spacing_mm) for mm in spacing_mm]
    if rng.random() >= config.spatial_probability:
        config = replace(config, rotation_rad=0.0, scale=0.0, elastic_mm=0.0)
    matrix = _random_matrix(spacing_mm, thick, config, rng)
    control = _random_control(shape, spacing_mm, thick, config, rng)
    own = tuple(draw_channel(config, shape, spacing_mm, thick, rng) for _ in range(channels))
    return Draw(matrix, control, own)


def _random_matrix(
    spacing_mm: Sequence[float], thick: Sequence[bool], config: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    angles = rng.uniform(-1, 1, 3) * config.rotation_rad
    zoom = (1 + config.scale) ** rng.uniform(-1, 1)
    flipped = (rng.random(3) < config.flip_probability) & np.isin(np.arange(3), config.flip_axes)
    flips = np.where(flipped, -1.0, 1.0)
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = [other for other in range(3) if other != axis]
        if angle == 0 or thick[first] or thick[second]:
            continue
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    zooms = np.where(thick, 1.0, 1 / zoom)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    return (rotation * (zooms * flips)) * spacing / spacing[:, None]


def _random_control(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    thick: Sequence[bool],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> np.ndarray | None:
    if rng.random() >= config.elastic_probability or config.elastic_mm == 0:
        return None
    extents = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    points = [max(2, round(extent / config.elastic_cell_mm) + 1) for extent in extents]
    control = rng.standard_normal((3, *points), dtype=np.float32) * np.float32(config.elastic_mm)
    in_voxels = np.where(thick, 0, 1 / np.asarray(spacing_mm)).astype(np.float32)
    return control * in_voxels[:, None, None, None]


def read_region(image: Any, label: Any, centre_vox: Sequence[float], patch_shape: Sequence[int], draw: Draw) -> Region:
    """`image` (C, D, H, W) floating, `label` (D, H, W) uint8: arrays or anything that slices into them.

    The voxel at index `centre_vox` (rounded down) comes to lie at index `patch_shape // 2`. Outside the case the image
    is 0 (the mean after normalisation by standard score) and the label is 0 (background): padding counts as annotated
    background.
    """
    shape = tuple(int(n) for n in patch_shape)
    centre = [int(np.floor(position)) for position in centre_vox]
    if draw.is_crop:
        corner = [at - n // 2 for at, n in zip(centre, shape, strict=True)]
        return Region(*_crop(image, label, corner, shape), _triple(corner, centre), shape, draw)
    source = []
    for axis, (low, high) in enumerate(_reach(shape, draw)):
        # Never empty: a patch beside the case reads one voxel, and finds none of its points in it.
        first = min(max(centre[axis] + int(np.floor(low)), 0), label.shape[axis] - 1)
        last = min(max(centre[axis] + int(np.floor(high)) + 2, first + 1), label.shape[axis])
        source.append(slice(first, last))
    region = np.array(image[(slice(None), *source)], dtype=np.float32, order="C")
    mask = np.array(label[tuple(source)], dtype=np.uint8, order="C")
    corner = [part.start for part in source]
    return Region(torch.from_numpy(region), torch.from_numpy(mask), _triple(corner, centre), shape, draw)


def _reach(shape: Sequence[int], draw: Draw) -> list[tuple[float, float]]:
    """Bounds of the positions that the patch samples, in voxels from its centre, by axis.

    A displacement never exceeds its control points: B-spline weights are positive and add up to 1.
    """
    ends = np.array([[-(n // 2), n - 1 - n // 2] for n in shape], dtype=np.float64)
    products = draw.matrix[:, :, None] * ends
    low, high = products.min(2).sum(1), products.max(2).sum(1)
    if draw.control is not None:
        low, high = low + draw.control.min(axis=(1, 2, 3)), high + draw.control.max(axis=(1, 2, 3))
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _crop(image: Any, label: Any, corner: Sequence[int], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    source, target = [], []
    for first, n, size in zip(corner, shape, label.shape, strict=True):
        low = min(max(first, 0), size)
        high = max(low, min(first + n, size))
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    patch = np.zeros((image.shape[0], *shape), dtype=np.float32)
    mask = np.zeros(shape, dtype=np.uint8)
    patch[(slice(None), *target)] = image[(slice(None), *source)]
    mask[tuple(target)] = label[tuple(source)]
    return torch.from_numpy(patch), torch.from_numpy(mask)


def _triple(corner: Sequence[int], centre: Sequence[int]) -> tuple[int, int, int]:
    d, h, w = (at - middle for at, middle in zip(corner, centre, strict=True))
    return d, h, w
