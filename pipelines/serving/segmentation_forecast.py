"""What measuring a held-out case will cost in memory and time, from its case file's header and the model's card alone.

Closed form over the steps of segmenter.py and stages/evaluate.py, in the order they hold memory.
"""

from pathlib import Path

import torch

from model import weights_file
from model.data.casefile import Case
from model.weights_file import Card
from pipelines.cases.forecast import READ
from pipelines.scans.volume import Geometry
from pipelines.work.memory import BYTE, FLOAT, with_overhead

# Measured on CPU in bfloat16: features and convolutions' scratch in a voxel of the window, by the width at stride 1
# (nano 532 bytes at 8, tiny 1092 at 16; both at 64^3).
WINDOW = 70
COUNTING = 12  # looking ids up casts them to 8 bytes; with masks and two copies of a byte
SEGMENT_S = 2e-6  # a voxel on one core; the cases' share of the time left is what it is for


def segmentation_bytes(case: Case, trained: Path) -> int:
    """Predicted peak above an idle worker's, which has no network yet."""
    card = weights_file.read_card(trained)
    network = sum(file.stat().st_size for file in weights_file.files(trained))
    window = card.patch_size.get(case.record.source, (0, 0, 0))
    geometry = Geometry.from_json(case.record.geometry)
    scan = _product(geometry.file_shape)
    padded = _product([max(pair) for pair in zip(case.label.shape, window, strict=True)])
    image = FLOAT * len(case.record.modalities) * padded
    classes = len(card.classes) + 1
    blending = 2 * image + (2 * classes + 2) * FLOAT * padded + _window_bytes(card, _product(window))
    restoring = image + classes * FLOAT * padded + (4 * FLOAT + BYTE) * _product(geometry.crop_shape) + BYTE * scan
    comparing = image + (2 * BYTE + max(READ + BYTE, COUNTING)) * scan
    return 2 * network + with_overhead(max(blending, restoring, comparing))


def segmentation_seconds(case: Case) -> float:
    return SEGMENT_S * _product(case.label.shape)


def _window_bytes(card: Card, voxels: int) -> int:
    """A GPU holds the features itself, one window at a time."""
    on_gpu = torch.cuda.device_count() > 0
    return 0 if on_gpu else WINDOW * int(card.network["stem_dims"][0]) * voxels


def _product(shape: list[int] | tuple[int, ...]) -> int:
    d, h, w = shape
    return d * h * w
