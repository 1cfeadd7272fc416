"""The case file: one preprocessed scan, readable by patch. Reader and writer live together here.

A safetensors file with a JSON record in its header and

    image.*     (C, D, H, W) real numbers, normalised, on the common spacing, in bricks (model/data/bricks.py)
    label.*     (D, H, W) structure ids of the system, in bricks; all zero if unlabelled
    label_high.*            their high bytes, where an id is above 255 or voxels are marked as undecided
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
    it. `geometry`: the way back to the scan's own grid, as pipelines.scans.volume.Geometry writes it. `undecided`: does
    the label hold voxels that nobody decided on (model/data/targets.py, IGNORED)?
    """

    case_id: str
    source: str
    split: str
    modalities: tuple[str, ...]
    annotated: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    geometry: dict[str, Any]
    undecided: bool = False


@dataclass(frozen=True)
class Case:
    """`image` and `label` are arrays, or bricks in a file that slice like arrays (np.asarray takes all of them)."""

    record: CaseRecord
    image: np.ndarray | Bricks
    label: "np.ndarray | Bricks | WideLabel"
    foreground: np.ndarray


class WideLabel:
    """Label bricks whose ids take two bytes: int16 wherever it is sliced."""

    def __init__(self, low: Bricks, high: Bricks) -> None:
        self.low, self.high, self.shape, self.dtype = low, high, low.shape, np.dtype(np.int16)

    def __getitem__(self, key: Any) -> np.ndarray:
        return self.low[key] + self.high[key].astype(np.int16) * 256

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype, copy=False)


def write(path: Path, case: Case) -> None:
    """Write to `path`; the caller chooses a temporary name and renames. Raises ValueError if a voxel is not finite."""
    tensors = {"foreground": np.ascontiguousarray(case.foreground, dtype=np.int32)}
    for name, voxels, dtype in (("image", np.asarray(case.image), np.float32), *_planes(np.asarray(case.label))):
        tensors |= {f"{name}.{part}": array for part, array in encode(voxels, dtype).items()}
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
        planes = {
            name: Bricks(size, **{part: arrays[f"{name}.{part}"] for part in PARTS}, file=mapped)
            for name, size in (("image", shape), ("label", shape[1:]), ("label_high", shape[1:]))
            if f"{name}.index" in arrays or name != "label_high"
        }
        label = WideLabel(planes["label"], planes["label_high"]) if "label_high" in planes else planes["label"]
        lists = {name: tuple(record[name]) for name in ("modalities", "annotated", "spacing_mm")}
        return Case(CaseRecord(**{**record, **lists}), planes["image"], label, arrays["foreground"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a case file ({type(error).__name__}); rerun preprocess") from None


def open_cases(folder: Path, split: str, labelled: bool = True) -> list[Case]:
    """The case files of a folder, by name; all, or the labelled ones. ValueError if one belongs to another split."""
    cases = [read(path) for path in sorted(folder.glob("*.safetensors"))]
    for case in cases:
        if case.record.split != split:
            raise ValueError(f"{folder} holds {case.record.case_id} of split {case.record.split!r}; rerun preprocess")
    return [case for case in cases if case.record.annotated or not labelled]


def _planes(label: np.ndarray) -> list[tuple[str, np.ndarray, type]]:
    """By bytes: what lies above 255 is kept apart, so that most files need one."""
    if label.dtype == np.uint8:
        return [("label", label, np.uint8)]
    high = (label >> 8).astype(np.uint8)
    low = ("label", (label & 255).astype(np.uint8), np.uint8)
    return [low, ("label_high", high, np.uint8)] if high.any() else [low]


def _array(mapped: mmap.mmap, start: int, entry: dict[str, Any]) -> np.ndarray:
    return np.ndarray(entry["shape"], _DTYPES[entry["dtype"]], mapped, start + entry["data_offsets"][0])
