"""Medical Segmentation Decathlon: `dataset.json` lists images and labels of one task; 3-D tasks of one modality."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.labels import CONTRACTS
from pipelines.sources import Scan

_MODALITIES = {"mri": "MR", "mr": "MR", "ct": "CT"}


def find(files: Sequence[str], root: Path) -> Iterator[Scan]:
    present = set(files)
    for index in sorted(path for path in files if PurePosixPath(path).name == "dataset.json"):
        yield from _task(index, present, root)


def _task(index: str, present: set[str], root: Path) -> Iterator[Scan]:
    try:
        task = json.loads((root / index).read_text())
        name, modality = task["name"].lower(), _MODALITIES[task["modality"]["0"].lower()]
        entries = [_pair(entry) for entry in [*task["training"], *task.get("test", [])]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Scan("msd", index, index, {}, None, "", f"{index}: not a readable MSD index ({type(error).__name__})")
        return
    contract = f"msd-{name}"
    for image, label in entries:
        folder = PurePosixPath(index).parent
        image_path = (folder / image).as_posix()
        label_path = (folder / label).as_posix() if label else None
        problem = ""
        if contract not in CONTRACTS:
            problem = f"{index}: task {task['name']!r} has no label contract; add one to pipelines/labels.py"
        for path in (image_path, label_path):
            if path and path not in present:
                problem = f"{path}: listed in dataset.json but missing"
        key = PurePosixPath(image).name.partition(".")[0]
        yield Scan("msd", f"{name}/{key}", f"{name}/{key}", {modality: image_path}, label_path, contract, problem)


def _pair(entry: Any) -> tuple[str, str | None]:
    """A `training` entry is {image, label}, a `test` entry a bare path."""
    return (entry["image"], entry["label"]) if isinstance(entry, dict) else (entry, None)
