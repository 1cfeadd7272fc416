"""What segmenting a scan will cost in memory, from its header and the weights' card, before a voxel is read.

Closed form over the steps of prediction.py, of segmenter.py and of the stage `evaluate`, in the order they hold memory;
tests/pipelines/serving/test_footprint.py and tests/pipelines/stages/test_held_out.py hold it against measured peaks. A
scan's content is taken to fill it, so that one with much air costs less. Not counted: surfaces are measured with 70
bytes for each of their voxels, which is little unless a network says noise.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from pathlib import Path

import torch

from model import weights_file
from model.data.casefile import Case
from model.engine.numerics import cpu_has_bfloat16
from model.network.config import NetworkConfig
from model.network.sizes import parameter_counts
from model.tasks.layout import Layout
from model.weights_file import Card
from pipelines.cases.forecast import READ
from pipelines.cases.preparation import SourceRecord
from pipelines.cases.resampling import axes_in_order, resampled_shape
from pipelines.scans.volume_geometry import Geometry, Outline
from pipelines.serving.conditions import Conditions
from pipelines.work.cores import workers
from pipelines.work.memory import ALLOCATOR, BYTE, FLOAT, HALF, free_bytes, with_overhead

INDEX = 8  # bytes a voxel
STARTING_BYTES = 64 << 20  # of torch's first operations: 35 to 41 measured, 55 where the processor has 16-bit kernels
# All that the network holds, in maps of float32 of its finest width at full resolution, nano and tiny.
FULL_RESOLUTION = 19  # for GPUs, where it was not measured: an earlier network held 17.5 on a CPU
IN_BFLOAT16 = 12  # on a CPU that has it: 5 to 8 measured, for windows of 24^3 to 96^3
IN_FLOAT32 = 30  # the same where it computes in float32: 27 measured for a window of 48^3
COUNTING = 12  # looking ids up casts them to 8 bytes; with masks and two copies of a byte
SEGMENT_S = 2e-6  # a voxel on one core; the cases' share of the time left is what it is for
MOST_THREADS = 8  # more wait for the one that puts their windows together
MOST_AT_A_TIME, SHARE_OF_GPU = 8, 0.5  # windows; of what is left free

Shape = tuple[int, int, int]


def segment_bytes(
    scan: Outline, channels: int, record: SourceRecord, card: Card, source: str, conditions: Conditions
) -> int:
    """Of a prediction: its peak in this process, above the network's own weights; with a GPU less is needed here."""
    target = resampled_shape(scan.shape, scan.spacing_mm, record.spacing_mm)
    whole, case = prod(scan.shape), prod(target)
    between = _sizes(scan.shape, target)
    resampling = max(FLOAT * (old + new) for old, new in pairwise(between))
    read = FLOAT * channels * whole + 2 * FLOAT * whole
    prepared = FLOAT * channels * (whole + case) + FLOAT * whole + max(BYTE * whole, resampling)
    engine = FLOAT * channels * case + engine_bytes(target, scan.shape, card, source, conditions)
    back = FLOAT * channels * case + _id_bytes(card) * (case + 3 * whole)
    return STARTING_BYTES + int(ALLOCATOR * max(read, prepared, engine, back))


def segmentation_bytes(case: Case, trained: Path, conditions: Conditions) -> int:
    """Of measuring a held-out case: its peak above an idle worker's, which has no network yet."""
    card = weights_file.read_card(trained)
    network = sum(file.stat().st_size for file in weights_file.files(trained))
    geometry, source = Geometry.from_json(case.record.geometry), case.record.source
    grid, scan, size = _three(case.label.shape), prod(geometry.file_shape), _id_bytes(card)
    image = FLOAT * len(case.record.modalities) * prod(grid)
    engine = image + size * prod(grid)
    if source in card.patch_size:  # else it is not segmented
        engine = image + engine_bytes(grid, geometry.crop_shape, card, source, conditions)
    back = image + size * (prod(grid) + prod(geometry.crop_shape) + 2 * scan)
    comparing = image + size * prod(grid) + (2 * size + max(READ + BYTE, COUNTING)) * scan
    return 2 * network + with_overhead(max(engine, back, comparing))


def segmentation_seconds(case: Case) -> float:
    return SEGMENT_S * prod(case.label.shape)


def engine_bytes(grid: Shape, crop: Shape, card: Card, source: str, conditions: Conditions) -> int:
    """From the network's input, which is not counted, to labels on its `grid` and on the file's, `crop`."""
    classes, layout = len(card.classes) + 1, Layout.of(grid, card.patch_size[source], conditions.overlap)
    labels = _id_bytes(card) * (prod(grid) + (prod(crop) if crop != grid else 0))
    on_gpu = torch.cuda.device_count() > 0
    network = 0 if on_gpu else window_bytes(card, card.patch_size[source], conditions.flips)
    held = FLOAT * classes * (layout.block if on_gpu else layout.held) + (0 if on_gpu else cast_bytes(card))
    answer = 0 if on_gpu else FLOAT * classes * prod(layout.reach)
    # Of a block: its largest probabilities and which they are; on the file's grid one structure's and the best so far.
    enlarged = layout.block * max(1.0, prod(crop) / prod(grid))
    taken = (2 * FLOAT + 2 * INDEX) * layout.block
    if crop != grid:
        taken = max(taken, int(2 * FLOAT * layout.block + (4 * FLOAT + 2 * BYTE) * enlarged))
        taken += 2 * FLOAT * classes * prod(grid) // layout.rows.size
    return labels + held + max(network, answer + taken)


def gpu_bytes(grid: Shape, channels: int, card: Card, source: str, conditions: Conditions) -> int:
    """Where the network is, beside its weights, with one window at a time."""
    window, classes = card.patch_size[source], len(card.classes) + 1
    held = classes * Layout.of(grid, window, conditions.overlap).held
    return FLOAT * (channels * prod(grid) + held) + cast_bytes(card) + window_bytes(card, window, conditions.flips)


def cast_bytes(card: Card) -> int:
    """Of the weights in 16 bits, which are there beside those in float32 while a scan is segmented."""
    if torch.cuda.device_count() == 0 and not cpu_has_bfloat16():
        return 0
    return HALF * sum(parameter_counts(NetworkConfig.of_record(card.network), len(card.classes) + 1).values())


def window_bytes(card: Card, window: Sequence[int], flips: Sequence[int]) -> int:
    """What the network and its answer take for one window."""
    classes = len(card.classes) + 1
    on_cpu = IN_BFLOAT16 if cpu_has_bfloat16() else IN_FLOAT32
    features = (FULL_RESOLUTION if torch.cuda.device_count() > 0 else on_cpu) * card.network["stem_dims"][0]
    maps = features + (6 if flips else 4) * classes
    views = (BYTE + 3 * INDEX) * 2 ** len(flips) if flips else 0
    return prod(window) * (FLOAT * maps + views)


def windows_at_a_time(card: Card, window: Sequence[int], flips: Sequence[int], held_bytes: int) -> int:
    """1 on a CPU, where more gain nothing; on a GPU as many as fit easily beside what else is to be held there."""
    if not torch.cuda.is_available():
        return 1
    room = int(SHARE_OF_GPU * (free_on_gpu() - held_bytes - cast_bytes(card)))
    return max(1, min(MOST_AT_A_TIME, room // window_bytes(card, window, flips)))


def threads(card: Card, conditions: Conditions, room_bytes: int) -> int:
    """Of a CPU, each with windows of its own: one a core as far as there is room for them beside the first."""
    if torch.cuda.is_available():
        return 1
    classes = len(card.classes) + 1
    each = max(
        window_bytes(card, window, conditions.flips) + FLOAT * classes * prod(window)
        for window in card.patch_size.values()
    )
    return max(1, min(MOST_THREADS, workers(), 1 + room_bytes // each))


def free_here() -> int:
    """Bytes that this machine, and its container, can still give."""
    return free_bytes()


def free_on_gpu() -> int:
    """Of the first GPU; where there is none, nothing is asked of it."""
    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else 2**63


def _id_bytes(card: Card) -> int:
    return BYTE if max(card.structures.values(), default=0) < 2**8 else 2 * BYTE


def _three(shape: Sequence[int]) -> Shape:
    d, h, w = shape
    return d, h, w


def _sizes(shape: Shape, target: Shape) -> list[int]:
    """Voxels before and after each axis that is resampled."""
    now, sizes = list(shape), [prod(shape)]
    for axis in axes_in_order(shape, target):
        now[axis] = target[axis]
        sizes.append(prod(now))
    return sizes if len(sizes) > 1 else sizes * 2
