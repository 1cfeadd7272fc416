"""What a case will cost, from its row in the manifest alone: peak memory and time, before a voxel is read.

Closed form over the steps of preparation.py and fingerprint.py beside this file, in the order they hold memory;
tests/pipelines/cases/test_forecast.py holds it against measured peaks. A scan's content is taken to fill it and its
file to be turned on reading, so that a scan with much air costs less than predicted, not more.
"""

from itertools import pairwise

from pipelines.cases.resampling import axes_in_order, resampled_shape
from pipelines.scans.manifest import Row
from pipelines.work.memory import BYTE, FLOAT, HALF, with_overhead

READ = 2 * FLOAT  # as read, and turned; of at most 4 bytes a voxel in the file
LABELLED = 0.25  # of a scan is labelled at most, or its statistics need more
# Measured on one core of a 2.5 GHz server: a case, a voxel read, a voxel made, a voxel whose content is summed up.
CASE_S, READ_S, MAKE_S, SUM_S = 6e-3, 22e-9, 30e-9, 20e-9

Spacing = tuple[float, float, float]


def case_bytes(row: Row, spacing_mm: Spacing) -> int:
    """Predicted peak of `prepare_case` and of writing its case file, above an idle worker's memory."""
    scan, *between, case = _voxels(row, spacing_mm)
    channels = len(row.images)
    resampling = max((FLOAT * (old + new) for old, new in pairwise([*between, case])), default=FLOAT * case)
    resampling = max(resampling, FLOAT * (between[0] if between else case)) if between or case != scan else 0
    image = FLOAT * (scan + case) * channels + max((FLOAT + BYTE) * scan, FLOAT * scan + resampling)
    halved = (FLOAT + HALF) * case * channels
    pile = HALF * scan if len(row.labels) > 1 else 0  # of masks, the later ones are read beside it
    label = HALF * case * channels + pile + max(READ * scan, (FLOAT + 3 * BYTE) * scan)
    if row.labels and case != scan:
        shares = (2 * BYTE + FLOAT) * scan + (FLOAT + BYTE) * case + max(resampling, (FLOAT + BYTE) * case)
        label = max(label, HALF * case * channels + shares)
    finish = (HALF * channels + BYTE) * case + max((HALF * channels + BYTE) * case, 3 * BYTE * case)
    read = FLOAT * scan * (channels - 1) + READ * scan
    return with_overhead(max(read, image, halved, label if row.labels else 0, finish))


def case_seconds(row: Row, spacing_mm: Spacing) -> float:
    """Predicted time of a case on one core."""
    scan, *_, case = _voxels(row, spacing_mm)
    return CASE_S + READ_S * scan * len(row.files) + MAKE_S * case * len(row.images)


def fingerprint_bytes(row: Row) -> int:
    """Predicted peak of one scan's statistics: its values are copied once, and once more for the percentiles."""
    scan = _product(row.shape)
    channels = len(row.images)
    share = LABELLED if row.labels else 1.0
    label = (FLOAT * channels + BYTE + READ) * scan
    values = (FLOAT * channels + 3 * BYTE + share * (FLOAT * channels + FLOAT)) * scan
    return with_overhead(int(max(label if row.labels else 0, values)))


def fingerprint_seconds(row: Row) -> float:
    return CASE_S + (READ_S * len(row.files) + SUM_S * len(row.images)) * _product(row.shape)


def _voxels(row: Row, spacing_mm: Spacing) -> list[int]:
    """Voxels of the scan, after each axis that is resampled, in the order they are, and so of the case."""
    shape = list(row.shape)
    target = resampled_shape(tuple(shape), tuple(row.spacing_mm), spacing_mm)
    sizes = [_product(shape)]
    for axis in axes_in_order(tuple(shape), target):
        shape[axis] = target[axis]
        sizes.append(_product(shape))
    return sizes if len(sizes) > 1 else sizes * 2


def _product(shape: list[int]) -> int:
    d, h, w = shape
    return d * h * w
