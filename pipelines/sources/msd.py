"""Medical Segmentation Decathlon: `dataset.json` lists images and labels of one task; 3-D tasks of one modality."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.labelnames import contract_by_name
from pipelines.labels import CONTRACTS
from pipelines.sources import Scan, beside, read_index

_MODALITIES = {"mri": "MR", "mr": "MR", "ct": "CT"}


def find(files: Sequence[str], root: Path) -> Iterator[Scan]:
    present = set(files)
    for index in sorted(path for path in files if PurePosixPath(path).name == "dataset.json"):
        yield from _task(index, present, root)


def _task(index: str, present: set[str], root: Path) -> Iterator[Scan]:
    try:
        task = read_index(root / index)
        if isinstance(task, dict) and "channel_names" in task:
            return  # nnU-Net's index of the same name
        name, modality = task["name"].lower(), _MODALITIES[task["modality"]["0"].lower()]
        entries = [_pair(entry) for entry in [*task["training"], *task.get("test", [])]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        yield Scan("msd", index, index, {}, None, "", f"{index}: not a readable MSD index ({reason})")
        return
    contract, problem = _contract(name, task, index)
    for image, label in entries:
        yield _scan(index, name, modality, image, label, contract, problem, present)


def _contract(name: str, task: dict[str, Any], index: str) -> tuple[str, str]:
    """The task's own contract, or one from the names in its `labels`; and the problem if there is neither."""
    if f"msd-{name}" in CONTRACTS:
        return f"msd-{name}", ""
    labels = task.get("labels")
    try:
        named = {str(structure): int(value) for value, structure in labels.items()}  # type: ignore[union-attr]
        return contract_by_name(named, name).spelled(), ""
    except (ValueError, TypeError, AttributeError) as error:
        return "", f"{index}: task {task['name']!r} has no label contract; add one to pipelines/labels.py ({error})"


def _scan(
    index: str,
    task: str,
    modality: str,
    image: str,
    label: str | None,
    contract: str,
    problem: str,
    present: set[str],
) -> Scan:
    paths = [beside(index, name) for name in (image, label) if name]
    for path, found in paths:
        if found or path not in present:
            problem = found or f"{path}: listed in dataset.json but missing"
    key = f"{task}/{PurePosixPath(image).name.partition('.')[0]}"
    return Scan("msd", key, key, {modality: paths[0][0]}, paths[1][0] if label else None, contract, problem)


def _pair(entry: Any) -> tuple[str, str | None]:
    """A `training` entry is {image, label}, a `test` entry a bare path."""
    image, label = (entry["image"], entry["label"]) if isinstance(entry, dict) else (entry, None)
    if not isinstance(image, str) or not isinstance(label, str | None):
        raise TypeError("a path must be text")
    return image, label
