"""One training patch out of a case: the region of the case that a draw needs, and what the draw makes of it.

    change = draw(config, case.image.shape[0], (48, 64, 48), case.record.spacing_mm, rng)  # model/data/draws.py
    region = read_region(case.image, case.label, centre_vox, (48, 64, 48), change)
    image, label = region.to(device).augmented()

The region is read where the case lies, in the loader. `augmented` is computed on the device that holds the region:
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
from model.data.draws import AugmentConfig, Draw, draw
from model.data.intensity import change_intensity


@dataclass(frozen=True)
class Region:
    """The part of a case that a patch of `shape` needs: `image` (C, D, H, W) float32, `label` (D, H, W) uint8 or int16.

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
        """Image (C, d, h, w) float32, linearly interpolated; label (d, h, w), each structure interpolated linearly
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


def read_region(image: Any, label: Any, centre_vox: Sequence[float], patch_shape: Sequence[int], draw: Draw) -> Region:
    """`image` (C, D, H, W) floating, `label` (D, H, W) uint8 or int16: arrays or anything that slices into them.

    The voxel at index `centre_vox` (rounded down) comes to lie at index `patch_shape // 2`. Outside the case the image
    is 0 (the mean after normalisation by standard score) and the label is 0 (background): padding counts as annotated
    background.
    """
    box = box_of(label.shape, centre_vox, patch_shape, draw)
    channels = (slice(None),)
    region = _taken(image, (*channels, *box.source), (*channels, *box.target), (image.shape[0], *box.size), np.float32)
    mask = _taken(label, box.source, box.target, box.size, label.dtype)
    shape = tuple(int(n) for n in patch_shape)
    return Region(torch.from_numpy(region), torch.from_numpy(mask), box.corner, shape, draw)


@dataclass(frozen=True)
class Box:
    """What a patch needs of a case: the voxels `source`, to lie at `target` in an array of `size` that is 0 elsewhere.

    `corner`: where that array's first voxel lies, in voxels from the patch's centre voxel.
    """

    source: tuple[slice, ...]
    target: tuple[slice, ...]
    size: tuple[int, ...]
    corner: tuple[int, int, int]


def box_of(case_size: Sequence[int], centre_vox: Sequence[float], patch_shape: Sequence[int], draw: Draw) -> Box:
    shape = tuple(int(n) for n in patch_shape)
    centre = [int(np.floor(position)) for position in centre_vox]
    if draw.is_crop:
        return _crop(case_size, centre, shape)
    source = []
    for axis, (low, high) in enumerate(_reach(shape, draw)):
        # Never empty: a patch beside the case reads one voxel, and finds none of its points in it.
        first = min(max(centre[axis] + int(np.floor(low)), 0), case_size[axis] - 1)
        last = min(max(centre[axis] + int(np.floor(high)) + 2, first + 1), case_size[axis])
        source.append(slice(first, last))
    size = tuple(part.stop - part.start for part in source)
    d, h, w = (part.start - middle for part, middle in zip(source, centre, strict=True))
    return Box(tuple(source), tuple(slice(0, n) for n in size), size, (d, h, w))


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


def _crop(case_size: Sequence[int], centre: Sequence[int], shape: tuple[int, ...]) -> Box:
    source, target = [], []
    for middle, n, size in zip(centre, shape, case_size, strict=True):
        first = middle - n // 2
        low = min(max(first, 0), size)
        high = max(low, min(first + n, size))
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    d, h, w = (-(n // 2) for n in shape)
    return Box(tuple(source), tuple(target), shape, (d, h, w))


def _taken(
    array: Any, source: tuple[slice, ...], target: tuple[slice, ...], size: tuple[int, ...], dtype: Any
) -> np.ndarray:
    """An array of its own."""
    part = array[source]
    if part.shape == size:
        return np.array(part, dtype=dtype, order="C")
    whole = np.zeros(size, dtype)
    whole[target] = part
    return whole
