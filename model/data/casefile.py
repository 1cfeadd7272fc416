"""The case file: one preprocessed scan, readable by patch. Reader and writer live together here.

A safetensors file with a JSON record in its header and

    image.*     (C, D, H, W) real numbers, normalised, on the common spacing, in bricks (model/data/bricks.py)
    label.*     (D, H, W) structure ids of the system, in bricks; all zero if unlabelled
    label_high.*            their high bytes, where an id is above 255 or voxels are marked as undecided
    foreground  (n, 4) int32, sampled voxels of every structure present: id, d, h, w

A file is opened by its header alone, and mapped while a patch is read: a patch costs the bricks it touches and nothing
else, and any number of files may be open. The same case gives the same bytes.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from model.data.bricks import PARTS, Bricks, encode

MAPPED = 64  # files that a process maps at once, a descriptor each; common limits are 1,024 descriptors
READERS = 16  # threads that open files: a disk far away answers many as fast as one
AT_ONCE = 50  # files of a thread's turn; with one each, taking turns costs as much as opening
HEADER_BYTES = 8192  # read at first; a header of three structures has 2,000
_DTYPES = {"F32": np.float32, "U8": np.uint8, "I32": np.int32}
_REMEDY = "rerun preprocess"


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
    """Arrays, or what a file holds of them; that slices like arrays, and np.asarray takes all of it."""

    record: CaseRecord
    image: np.ndarray | CaseArray
    label: np.ndarray | CaseArray
    foreground: np.ndarray | CaseArray


@dataclass(frozen=True)
class CaseArray:
    """An array in a case file. It slices as Bricks do, and what comes back is an array of its own.

    The file is mapped while it is read; up to MAPPED of them stay mapped in a process. What is pickled is this
    description. `stamp`: of the file as it was opened. Slicing raises ValueError if it is no longer that file.
    """

    path: Path
    stamp: tuple[int, int]
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        part = self._part()
        return np.array(part[key]) if isinstance(part, np.ndarray) else part[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype, copy=False)

    def cut(self, box: Sequence[slice]) -> list[dict[str, np.ndarray]]:
        """The bricks that a box touches, undecoded: of an image or label, the bytes from low to high."""
        part = self._part()
        planes = [part.low, part.high] if isinstance(part, WideLabel) else [part]
        return [plane.cut(box) for plane in planes]

    def _part(self) -> Any:
        try:
            if _stamp(self.path.stat()) == self.stamp:
                return _mapped(self.path, self.stamp)[self.name]
        except FileNotFoundError:
            raise ValueError(f"{self.path} was removed while it was in use; {_REMEDY}, and start again") from None
        raise ValueError(f"{self.path} was changed while it was in use; start again to read what it is now")


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
    """Open a case file: its header is read, the arrays stay in it until they are sliced. ValueError if it is none."""
    try:
        stamp, start, head = _head(path)
        header = json.loads(head)
        record = json.loads(header.pop("__metadata__")["case"])
        if start + max(entry["data_offsets"][1] for entry in header.values()) > stamp[0]:
            raise ValueError("cut")
        shape, label = tuple(record.pop("shape")), np.int16 if "label_high.index" in header else np.uint8
        kinds: dict[str, tuple[tuple[int, ...], Any]] = {
            "image": (shape, np.float32),
            "label": (shape[1:], label),
            "foreground": (tuple(header["foreground"]["shape"]), np.int32),
        }
        arrays = {name: CaseArray(path, stamp, name, size, np.dtype(dtype)) for name, (size, dtype) in kinds.items()}
        return Case(_record(record), **arrays)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _not_a_case_file(path, error) from None


def _head(path: Path) -> tuple[tuple[int, int], int, bytes]:
    """Stamp of a file, where its arrays start, and its header, by one read as a rule. ValueError if it is cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        stamp, head = _stamp(os.fstat(descriptor)), os.read(descriptor, HEADER_BYTES)
        start = 8 + int.from_bytes(head[:8], "little")
        if start > stamp[0]:
            raise ValueError("cut")
        if start > len(head):
            head = os.pread(descriptor, start, 0)
        return stamp, start, head[8:start]
    finally:
        os.close(descriptor)


def _record(told: dict[str, Any]) -> CaseRecord:
    """Words that thousands of cases share are one string, in memory and pickled."""
    words = {name: sys.intern(told[name]) for name in ("source", "split")}
    lists = {name: tuple(map(sys.intern, told[name])) for name in ("modalities", "annotated")}
    return CaseRecord(**{**told, **words, **lists, "spacing_mm": tuple(told["spacing_mm"])})


@lru_cache(maxsize=MAPPED)
def _mapped(path: Path, stamp: tuple[int, int]) -> dict[str, np.ndarray | Bricks | WideLabel]:
    """The arrays of a file. What this forgets stays mapped for as long as somebody reads from it, and no longer."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        start = 8 + int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8:start])
        shape = tuple(json.loads(header.pop("__metadata__")["case"])["shape"])
        arrays = {name: _array(mapped, start, entry) for name, entry in header.items()}
        planes = {
            name: Bricks(size, **{part: arrays[f"{name}.{part}"] for part in PARTS}, file=mapped)
            for name, size in (("image", shape), ("label", shape[1:]), ("label_high", shape[1:]))
            if f"{name}.index" in arrays or name != "label_high"
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _not_a_case_file(path, error) from None
    label = WideLabel(planes["label"], planes["label_high"]) if "label_high" in planes else planes["label"]
    return {"image": planes["image"], "label": label, "foreground": arrays["foreground"]}


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _not_a_case_file(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not a case file ({type(error).__name__}); {_REMEDY}")


def open_cases(folder: Path, split: str, labelled: bool = True) -> list[Case]:
    """The case files of a folder, by name; all, or the labelled ones. ValueError if one belongs to another split."""
    paths = sorted(folder.glob("*.safetensors"))
    parts = [paths[first : first + AT_ONCE] for first in range(0, len(paths), AT_ONCE)]
    with ThreadPoolExecutor(READERS) as pool:
        cases = [case for part in pool.map(_read_all, parts) for case in part]
    for case in cases:
        if case.record.split != split:
            raise ValueError(f"{folder} holds {case.record.case_id} of split {case.record.split!r}; rerun preprocess")
    return [case for case in cases if case.record.annotated or not labelled]


def _read_all(paths: Sequence[Path]) -> list[Case]:
    return [read(path) for path in paths]


def _planes(label: np.ndarray) -> list[tuple[str, np.ndarray, type]]:
    """By bytes: what lies above 255 is kept apart, so that most files need one."""
    if label.dtype == np.uint8:
        return [("label", label, np.uint8)]
    high = (label >> 8).astype(np.uint8)
    low = ("label", (label & 255).astype(np.uint8), np.uint8)
    return [low, ("label_high", high, np.uint8)] if high.any() else [low]


def _array(mapped: mmap.mmap, start: int, entry: dict[str, Any]) -> np.ndarray:
    return np.ndarray(entry["shape"], _DTYPES[entry["dtype"]], mapped, start + entry["data_offsets"][0])
