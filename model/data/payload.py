"""A micro-batch on its way to a GPU: bricks as case files store them, a byte a voxel or less, in one block of memory.

    batch = pack([cut_region(case.image, case.label, box, patch_shape, draw)], [case.record])     # in the loader
    raw = batch.to(device)                                                                        # float32 there

One block is one file in /dev/shm, one descriptor, one page-locked block and one copy to the device, of about a quarter
of the decoded voxels' bytes. What the device decodes equals to the bit what Bricks decodes in the loader: the same
multiplication and the same addition, each rounded alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.data.augment import Box, Region
from model.data.bricks import BRICK, CODES, within_bricks
from model.data.casefile import CaseRecord
from model.data.draws import Draw

ALIGNED = 16  # bytes: where an array begins in the block, so that any dtype may be viewed there


@dataclass(frozen=True)
class RawBatch:
    """A micro-batch that is read but not augmented: one region and one record a sample. `index` as in Batch."""

    regions: tuple[Region, ...]
    records: tuple[CaseRecord, ...]
    index: int = 0

    def to(self, device: torch.device) -> RawBatch:
        return replace(self, regions=tuple(region.to(device) for region in self.regions))

    def pin_memory(self) -> RawBatch:
        """What the loader calls to make copies to a GPU asynchronous."""
        return replace(self, regions=tuple(region.pin_memory() for region in self.regions))


@dataclass(frozen=True)
class ArrayPlace:
    """Where an array lies in the block: its first byte, its dtype and its shape."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def within(self, block: Tensor) -> Tensor:
        end = self.start + math.prod(self.shape) * self.dtype.itemsize
        return block[self.start : end].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class PackedRegion:
    """`image` and `label`: the arrays of Bricks.cut by name; of the label the low bytes and, if ids have them, the high
    ones. `box`: of the case. `patch_shape`, `draw`: as in Region."""

    image: dict[str, ArrayPlace]
    label: tuple[dict[str, ArrayPlace], ...]
    box: Box
    patch_shape: tuple[int, ...]
    draw: Draw

    def decoded(self, block: Tensor) -> Region:
        """On the device where the block lies."""
        label, *high = (_decode(plane, block, self.box)[0] for plane in self.label)
        if high:
            label = label.short() + high[0].short() * 256
        return Region(_decode(self.image, block, self.box), label, self.box.corner, self.patch_shape, self.draw)


@dataclass(frozen=True)
class PackedBatch:
    """The same in one block of bytes."""

    block: Tensor
    regions: tuple[PackedRegion, ...]
    records: tuple[CaseRecord, ...]
    index: int = 0

    def pin_memory(self) -> PackedBatch:
        return replace(self, block=self.block.pin_memory())

    def to(self, device: torch.device) -> RawBatch:
        """The bytes move; there they are decoded."""
        block = self.block.to(device, non_blocking=True)
        return RawBatch(tuple(region.decoded(block) for region in self.regions), self.records, self.index)


@dataclass(frozen=True)
class CutRegion:
    """The arrays that `pack` puts into a block."""

    image: dict[str, np.ndarray]
    label: list[dict[str, np.ndarray]]
    box: Box
    patch_shape: tuple[int, ...]
    draw: Draw


def cut_region(image: Any, label: Any, box: Box, patch_shape: Sequence[int], draw: Draw) -> CutRegion:
    """`image`, `label`: what model/data/casefile.py calls CaseArray."""
    (planes,) = image.cut((slice(None), *box.source))
    return CutRegion(planes, label.cut(box.source), box, tuple(int(n) for n in patch_shape), draw)


def pack(regions: Sequence[CutRegion], records: Sequence[CaseRecord], index: int = 0) -> PackedBatch:
    arrays: list[tuple[int, np.ndarray]] = []
    end = 0

    def placed(plane: dict[str, np.ndarray]) -> dict[str, ArrayPlace]:
        nonlocal end
        places = {}
        for name, array in plane.items():
            arrays.append((end, array))
            places[name] = ArrayPlace(end, getattr(torch, array.dtype.name), array.shape)
            end += -(-array.nbytes // ALIGNED) * ALIGNED
        return places

    packed = []
    for region in regions:
        image, label = placed(region.image), tuple(placed(plane) for plane in region.label)
        packed.append(PackedRegion(image, label, region.box, region.patch_shape, region.draw))
    block = np.empty(max(end, ALIGNED), np.uint8)  # a patch beside the case has no bricks; torch views no empty block
    for start, array in arrays:
        block[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return PackedBatch(torch.from_numpy(block), tuple(packed), tuple(records), index)


def _decode(plane: dict[str, ArrayPlace], block: Tensor, box: Box) -> Tensor:
    """(C, *box.size). One channel after the other, so that one alone is there twice."""
    part = {name: place.within(block) for name, place in plane.items()}
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=block.device)
    bits = ((part["bits"].unsqueeze(-1) >> shifts) & 1).flatten(1)
    table = torch.cat([bits.new_zeros(1, CODES), part["codes"], bits])
    *outer, d, h, w = part["rows"].shape
    channels, inside = math.prod(outer), tuple(within_bricks(each) for each in box.source)
    whole = torch.zeros(channels, *box.size, dtype=part["low"].dtype, device=block.device)
    by_channel = (part[name].reshape(channels, d * h * w) for name in ("rows", "low", "step"))
    for values, rows, low, step in zip(whole, *by_channel, strict=True):
        voxels = table.index_select(0, rows).to(whole.dtype).mul_(step.unsqueeze(-1)).add_(low.unsqueeze(-1))
        voxels = voxels.view(d, h, w, BRICK, BRICK, BRICK).permute(0, 3, 1, 4, 2, 5)
        values[box.target] = voxels.reshape(d * BRICK, h * BRICK, w * BRICK)[inside]
    return whole
