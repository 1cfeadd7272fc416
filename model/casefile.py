"""The case file: one preprocessed scan, readable by patch. Reader and writer live together here.

A safetensors file with three tensors and one JSON record in its header:

    image       (C, D, H, W) float16, normalised, on the common spacing
    label       (D, H, W) uint8, structure ids of the system; all zero if unlabelled
    foreground  (n, 4) int32, sampled voxels of every structure present: id, d, h, w

Uncompressed and memory-mapped, so that a patch costs the pages it touches and nothing else.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

_DTYPES = {"F16": np.float16, "U8": np.uint8, "I32": np.int32}


@dataclass(frozen=True)
class CaseRecord:
    """What a case file says about its scan.

    `spacing_mm`: (D, H, W) of image and label. `annotated`: structures its source annotated; the others are unknown in
    it. `geometry`: the way back to the scan's own grid, as pipelines.volume.Geometry writes it.
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
    record: CaseRecord
    image: np.ndarray
    label: np.ndarray
    foreground: np.ndarray


def write(path: Path, case: Case) -> None:
    """Write to `path`; the caller chooses a temporary name and renames."""
    tensors: dict[str, np.ndarray] = {
        "image": np.ascontiguousarray(case.image, dtype=np.float16),
        "label": np.ascontiguousarray(case.label, dtype=np.uint8),
        "foreground": np.ascontiguousarray(case.foreground, dtype=np.int32),
    }
    save_file(tensors, path, metadata={"case": json.dumps(asdict(case.record))})


def read(path: Path) -> Case:
    """Open a case file; the arrays are memory maps. Raises ValueError if it is not one."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        record = json.loads(header["__metadata__"]["case"])
        arrays = {name: _map(path, 8 + length, header[name]) for name in ("image", "label", "foreground")}
    except (KeyError, UnicodeDecodeError, json.JSONDecodeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path} is not a case file ({type(error).__name__}); rerun preprocess") from None
    lists = {name: tuple(record[name]) for name in ("modalities", "annotated", "spacing_mm")}
    return Case(CaseRecord(**{**record, **lists}), **arrays)


def open_cases(folder: Path, split: str) -> list[Case]:
    """All labelled case files of a folder, by name. Raises ValueError if one belongs to another split."""
    cases = [read(path) for path in sorted(folder.glob("*.safetensors"))]
    for case in cases:
        if case.record.split != split:
            raise ValueError(f"{folder} holds {case.record.case_id} of split {case.record.split!r}; rerun preprocess")
    return [case for case in cases if case.record.annotated]


def _map(path: Path, start: int, entry: dict[str, Any]) -> np.ndarray:
    shape, dtype = tuple(entry["shape"]), _DTYPES[entry["dtype"]]
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", start + entry["data_offsets"][0], shape)
