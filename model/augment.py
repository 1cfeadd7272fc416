"""One training patch out of a case: rotation, scaling, elastic deformation and flip composed into one resampling.

    image, label = sample_patch(case.image, case.label, centre_vox, (48, 64, 48), case.spacing_mm, AugmentConfig(), rng)

Only the region of the case that the patch touches is read, so image and label may be memory-mapped files. All
randomness comes from `rng`: the same generator state gives the same patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import ANISOTROPY_LIMIT


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


PLAIN_CROP = AugmentConfig(1, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0)


def sample_patch(
    image: Any,
    label: Any,
    centre_vox: Sequence[float],
    patch_shape: Sequence[int],
    spacing_mm: Sequence[float],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Image (C, d, h, w) float32, linearly interpolated, and label (d, h, w) uint8: each structure as a linear field,
    the largest wins.

    `image` (C, D, H, W) floating, `label` (D, H, W) uint8: arrays or anything that slices into them. The voxel at index
    `centre_vox` (rounded down) comes to lie at index `patch_shape // 2`. Outside the case the image is 0 (the mean
    after normalisation by standard score) and the label is 0 (background): padding counts as annotated background.
    Deformation is in millimetres; an axis more than twice as coarse as the finest is only cropped and flipped.
    """
    shape = tuple(int(n) for n in patch_shape)
    thick = [mm > ANISOTROPY_LIMIT * min(spacing_mm) for mm in spacing_mm]
    if rng.random() >= config.spatial_probability:
        config = replace(config, rotation_rad=0.0, scale=0.0, elastic_mm=0.0)
    matrix = _random_matrix(spacing_mm, thick, config, rng)
    displacement = _random_displacement(shape, spacing_mm, thick, config, rng)
    if displacement is None and np.array_equal(np.abs(matrix), np.eye(3)):
        patch, mask = _crop(image, label, centre_vox, shape)
        flipped = [axis for axis in range(3) if matrix[axis, axis] < 0]
        patch, mask = patch.flip([axis + 1 for axis in flipped]), mask.flip(flipped)
    else:
        patch, mask = _resample(image, label, centre_vox, shape, matrix, displacement)
    return _change_intensity(patch, config, rng), mask


def _random_matrix(
    spacing_mm: Sequence[float], thick: Sequence[bool], config: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    """Voxel offsets in the patch to voxel offsets in the case, (3, 3)."""
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


def _random_displacement(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    thick: Sequence[bool],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> list[Tensor | None] | None:
    """A smooth displacement in voxels per axis, (d, h, w) each, None along thick axes."""
    if rng.random() >= config.elastic_probability or config.elastic_mm == 0:
        return None
    extents = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    points = [max(2, round(extent / config.elastic_cell_mm) + 1) for extent in extents]
    control = rng.standard_normal((3, *points), dtype=np.float32) * np.float32(config.elastic_mm)
    weights = [_smooth_weights(count, size) for count, size in zip(points, shape, strict=True)]
    displacement: list[Tensor | None] = []
    for axis in range(3):
        if thick[axis]:
            displacement.append(None)
            continue
        field = torch.from_numpy(control[axis] / np.float32(spacing_mm[axis]))
        field = torch.tensordot(weights[2], field, dims=([1], [2]))  # (w, points d, points h)
        field = torch.tensordot(weights[1], field, dims=([1], [2]))  # (h, w, points d)
        displacement.append(torch.tensordot(weights[0], field, dims=([1], [2])))
    return displacement


def _smooth_weights(points: int, size: int) -> Tensor:
    """(size, points): cubic B-spline weights of equally spaced control points; the border ones repeat."""
    position = torch.linspace(0, points - 1, size)
    distance = (position[:, None] - torch.arange(-1, points + 1)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    weight = torch.where(distance < 1, near, far)
    weight[:, 1] += weight[:, 0]
    weight[:, -2] += weight[:, -1]
    return weight[:, 1:-1].contiguous()


def _crop(image: Any, label: Any, centre_vox: Sequence[float], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    start = [int(np.floor(centre)) - n // 2 for centre, n in zip(centre_vox, shape, strict=True)]
    source, target = [], []
    for first, n, size in zip(start, shape, label.shape, strict=True):
        low = min(max(first, 0), size)
        high = max(low, min(first + n, size))
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    patch = np.zeros((image.shape[0], *shape), dtype=np.float32)
    mask = np.zeros(shape, dtype=np.uint8)
    patch[(slice(None), *target)] = image[(slice(None), *source)]
    mask[tuple(target)] = label[tuple(source)]
    return torch.from_numpy(patch), torch.from_numpy(mask)


def _resample(
    image: Any,
    label: Any,
    centre_vox: Sequence[float],
    shape: tuple[int, ...],
    matrix: np.ndarray,
    displacement: list[Tensor | None] | None,
) -> tuple[Tensor, Tensor]:
    offsets = [torch.arange(n, dtype=torch.float32) - n // 2 for n in shape]
    source, grid = [], torch.empty((1, *shape, 3))
    for axis in range(3):
        d, h, w = (offset * float(factor) for offset, factor in zip(offsets, matrix[axis], strict=True))
        position = grid[0, ..., 2 - axis]
        torch.add((d + float(np.floor(centre_vox[axis])))[:, None, None], h[:, None] + w, out=position)
        if displacement is not None and (field := displacement[axis]) is not None:
            position += field
        low, high = (int(value) for value in torch.aminmax(position))
        low = min(max(low, 0), label.shape[axis] - 1)
        high = min(max(high + 2, low + 1), label.shape[axis])
        source.append(slice(low, high))
        # To the unit of grid_sample: with align_corners=False, voxel i of n lies at (2 i + 1) / n - 1.
        size = high - low
        position.mul_(2 / size).add_((1 - 2 * low) / size - 1)
    region = torch.from_numpy(np.array(image[(slice(None), *source)], dtype=np.float32))
    mask = torch.from_numpy(np.array(label[tuple(source)]))
    structures = torch.bincount(mask.flatten())[1:].nonzero().flatten() + 1
    fields = (mask == structures[:, None, None, None]).float()
    sampled = F.grid_sample(
        torch.cat([region, fields])[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )[0]
    patch, shares = sampled[: len(region)], sampled[len(region) :]
    background = 1 - shares.sum(0, keepdim=True)
    values = F.pad(structures, (1, 0)).to(torch.uint8)
    return patch, values[torch.cat([background, shares]).argmax(0)]


def _change_intensity(patch: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    for channel in patch:
        shift, scale, gamma = rng.uniform(-1, 1, 3)
        noise = rng.random() * config.noise
        if config.gamma:
            low, high = torch.aminmax(channel)
            extent = (high - low).clamp(min=1e-6)
            channel.sub_(low).div_(extent).pow_((1 + config.gamma) ** gamma).mul_(extent).add_(low)
        if config.intensity_scale or config.intensity_shift:
            channel.mul_(1 + config.intensity_scale * scale).add_(config.intensity_shift * shift)
        if noise:
            channel.add_(torch.from_numpy(rng.standard_normal(channel.shape, dtype=np.float32)), alpha=noise)
    return patch
