"""The case file: one preprocessed scan, readable by patch. Reader and writer live together here.

A safetensors file with a JSON record in its header and

    image.*     (C, D, H, W) real numbers, normalised, on the common spacing, in bricks (model/data/bricks.py)
    label.*     (D, H, W) structure ids of the system, in bricks; all zero if unlabelled
    foreground  (n, 4) int32, sampled voxels of every structure present: id, d, h, w

It is memory-mapped, so that a patch costs the bricks it touches and nothing else. The same case gives the same bytes.
"""

import json
import mmap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from model.data.bricks import PARTS, Bricks, encode

_DTYPES = {"F32": np.float32, "U8": np.uint8, "I32": np.int32}


@dataclass(frozen=True)
class CaseRecord:
    """What a case file says about its scan.

    `spacing_mm`: (D, H, W) of image and label. `annotated`: structures its source annotated; the others are unknown in
    it. `geometry`: the way back to the scan's own grid, as pipelines.scans.volume.Geometry writes it.
    """

    case_id: str
    source: str
    split: str
    modalities: tuple[str, ...]
    annotated: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    geometry: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """`image` and `label` are arrays, or bricks in a file that slice like arrays (np.asarray takes all of them)."""

    record: CaseRecord
    image: np.ndarray | Bricks
    label: np.ndarray | Bricks
    foreground: np.ndarray


def write(path: Path, case: Case) -> None:
    """Write to `path`; the caller chooses a temporary name and renames. Raises ValueError if a voxel is not finite."""
    tensors = {"foreground": np.ascontiguousarray(case.foreground, dtype=np.int32)}
    for name, voxels, dtype in (("image", case.image, np.float32), ("label", case.label, np.uint8)):
        tensors |= {f"{name}.{part}": array for part, array in encode(np.asarray(voxels), dtype).items()}
    shape = list(case.image.shape)
    save_file(tensors, path, metadata={"case": json.dumps({**asdict(case.record), "shape": shape})})


def read(path: Path) -> Case:
    """Open a case file; image and label stay in it until they are sliced. Raises ValueError if it is not one."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8:start])
        record = json.loads(header.pop("__metadata__")["case"])
        arrays = {name: _array(mapped, start, entry) for name, entry in header.items()}
        shape = tuple(record.pop("shape"))
        image, label = (
            Bricks(size, **{part: arrays[f"{name}.{part}"] for part in PARTS}, file=mapped)
            for name, size in (("image", shape), ("label", shape[1:]))
        )
        lists = {name: tuple(record[name]) for name in ("modalities", "annotated", "spacing_mm")}
        return Case(CaseRecord(**{**record, **lists}), image, label, arrays["foreground"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a case file ({type(error).__name__}); rerun preprocess") from None


def open_cases(folder: Path, split: str, labelled: bool = True) -> list[Case]:
    """The case files of a folder, by name; all, or the labelled ones. ValueError if one belongs to another split."""
    cases = [read(path) for path in sorted(folder.glob("*.safetensors"))]
    for case in cases:
        if case.record.split != split:
            raise ValueError(f"{folder} holds {case.record.case_id} of split {case.record.split!r}; rerun preprocess")
    return [case for case in cases if case.record.annotated or not labelled]


def _array(mapped: mmap.mmap, start: int, entry: dict[str, Any]) -> np.ndarray:
    return np.ndarray(entry["shape"], _DTYPES[entry["dtype"]], mapped, start + entry["data_offsets"][0])
