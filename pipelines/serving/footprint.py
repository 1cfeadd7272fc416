"""What segmenting a scan will cost in memory, from its header and the weights' card, before a voxel is read.

Closed form over the steps of prediction.py, in the order they hold memory; tests/pipelines/serving/test_footprint.py
holds it against measured peaks. A scan's content is taken to fill it, so that one with much air costs less.
"""

from itertools import pairwise
from math import prod

import torch

from model.weights_file import Card
from pipelines.cases.preparation import SourceRecord
from pipelines.cases.resampling import axes_in_order, resampled_shape
from pipelines.scans.volume import Outline
from pipelines.work.memory import free_bytes

FLOAT, INDEX, BYTE = 4, 8, 1  # bytes a voxel
OVERHEAD_BYTES = 48 << 20  # of torch's first operations: 24 measured, and as much to spare
ALLOCATOR = 1.12  # measured: what it keeps of freed arrays below its threshold
# Measured on a CPU, nano and tiny, windows of 32^3 and 64^3: all that the network holds, in maps of its finest width at
# full resolution, is 17 to 23 of them.
FULL_RESOLUTION = 24


def segment_bytes(scan: Outline, channels: int, record: SourceRecord, card: Card, source: str) -> int:
    """Predicted peak in this process, above the network's own weights; with a GPU less is needed here."""
    target = resampled_shape(scan.shape, scan.spacing_mm, record.spacing_mm)
    whole, case = prod(scan.shape), prod(target)
    classes = len(card.classes) + 1
    between = _sizes(scan.shape, target)
    resampling = max(FLOAT * (old + new) for old, new in pairwise(between))
    read = FLOAT * channels * whole + 2 * FLOAT * whole
    prepared = FLOAT * channels * (whole + case) + FLOAT * whole + max(BYTE * whole, resampling)
    back = FLOAT * case * (channels + classes) + (FLOAT + BYTE) * whole + max((2 * FLOAT + BYTE) * whole, resampling)
    chosen = FLOAT * case * (channels + classes) + INDEX * case
    windows = FLOAT * channels * case + window_bytes(case, channels, card, source)
    return OVERHEAD_BYTES + int(ALLOCATOR * max(read, prepared, windows, chosen, back))


def window_bytes(case: int, channels: int, card: Card, source: str) -> int:
    """Of the sliding window alone, where the network is. `case`: voxels of the network's grid."""
    window = card.patch_size[source]
    classes = len(card.classes) + 1
    sums = max(case, prod(window)) * (channels + classes + 1)
    maps = prod(window) * (FULL_RESOLUTION * card.network["stem_dims"][0] + 4 * classes)
    return FLOAT * (sums + maps)


def free_here() -> int:
    """Bytes that this machine, and its container, can still give."""
    return free_bytes()


def free_on_gpu() -> int:
    """Of the first GPU; where there is none, nothing is asked of it."""
    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else 2**63


def _sizes(shape: tuple[int, int, int], target: tuple[int, int, int]) -> list[int]:
    """Voxels before and after each axis that is resampled."""
    now, sizes = list(shape), [prod(shape)]
    for axis in axes_in_order(shape, target):
        now[axis] = target[axis]
        sizes.append(prod(now))
    return sizes if len(sizes) > 1 else sizes * 2
