"""One answer for a viewer: the scan in grey and what was found in it, small enough for a browser, as one file.

    gzip of   b"medsegV1", length of the header (uint32), header (JSON), grey (uint8), numbers of structures (uint8)

All little endian; both volumes (D, H, W) as everywhere here: towards head, front and right of the patient. A
structure's number is its place among the header's `structures`, from 1. pipelines/service/page/volume.js reads it.
"""

import gzip
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.pages.drawing import CT_WINDOW_HU, grey, window_of
from pipelines.scans.modalities import in_hu
from pipelines.scans.structure import Structure
from pipelines.scans.volume_geometry import Volume

MAGIC = b"medsegV1"
MOST_VOXELS = 192  # along an axis: a browser unpacks and draws it at once, and it is a few megabytes
OTHER = 255  # the number of all beyond the 254th structure


def write(
    file: Path,
    volume: Volume,
    label: np.ndarray,
    modality: str,
    structures: Sequence[Structure],
    told: Mapping[str, Any],
) -> None:
    """`label` (D, H, W): structure ids on the volume; `structures`: those with a voxel. `told`: what else a reader is
    told, as JSON."""
    step = tuple(-(-size // MOST_VOXELS) for size in label.shape)
    means = _means(volume.array, step)
    image = grey(means, CT_WINDOW_HU if in_hu(modality) else window_of(means))
    header = {
        "shape": image.shape,
        "spacing_mm": [mm * by for mm, by in zip(volume.spacing_mm, step, strict=True)],
        "step": step,
        "full_shape": label.shape,
        "structures": [{"name": each.name, "colour": each.colour} for each in structures],
        **told,
    }
    text = json.dumps(header, allow_nan=False).encode()
    numbers = _numbers(_centres(label, step), structures)
    content = b"".join((MAGIC, struct.pack("<I", len(text)), text, image.tobytes(), numbers.tobytes()))
    file.write_bytes(gzip.compress(content, 6, mtime=0))


def read(file: Path) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Header, grey, numbers."""
    content = gzip.decompress(file.read_bytes())
    (length,) = struct.unpack_from("<I", content, len(MAGIC))
    start = len(MAGIC) + 4
    header = json.loads(content[start : start + length])
    both = np.frombuffer(content, np.uint8, offset=start + length).reshape(2, *header["shape"])
    return header, both[0], both[1]


def _means(array: np.ndarray, step: Sequence[int]) -> np.ndarray:
    """Of blocks of `step`; the last along an axis may be smaller."""
    for axis, by in enumerate(step):
        if by > 1:
            starts = np.arange(0, array.shape[axis], by)
            counts = np.diff([*starts, array.shape[axis]]).astype(np.float32)
            array = np.add.reduceat(array, starts, axis=axis)
            array /= counts.reshape([-1 if other == axis else 1 for other in range(3)])
    return array


def _centres(label: np.ndarray, step: Sequence[int]) -> np.ndarray:
    """The middle voxel of each block: any rule that looks at all of them favours some structure."""
    sizes = zip(label.shape, step, strict=True)
    return label[np.ix_(*(np.minimum(np.arange(by // 2, size + by // 2, by), size - 1) for size, by in sizes))]


def _numbers(label: np.ndarray, structures: Sequence[Structure]) -> np.ndarray:
    numbers = np.where(label == 0, 0, OTHER).astype(np.uint8)
    for number, structure in enumerate(structures[: OTHER - 1], 1):
        numbers[label == structure.id] = number
    return numbers
