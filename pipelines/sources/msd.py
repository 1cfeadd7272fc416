"""Medical Segmentation Decathlon: `dataset.json` lists images and labels of one task; 3-D tasks of one modality.

A task without a contract of its own (pipelines/scans/contracts.py) is known by the names of its labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.scans import modalities
from pipelines.scans.contracts import CONTRACTS
from pipelines.scans.label_names import Meanings, contract_by_name, of_source
from pipelines.scans.naming import at
from pipelines.sources import Scan, beside, read_index


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    present = set(files)
    for index in sorted(path for path in files if PurePosixPath(path).name == "dataset.json"):
        yield from _task(index, present, root, meanings)


@dataclass(frozen=True)
class _Task:
    """What an index says of all its scans. `problem`: why none of them can be used."""

    index: str
    name: str
    modality: str
    contract: str
    problem: str


def _task(index: str, present: set[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    try:
        content = read_index(root / index)
        if isinstance(content, dict) and "channel_names" in content:
            return  # nnU-Net's index of the same name
        name, modality = content["name"].lower(), _only_modality(content["modality"])
        entries = [_pair(entry) for entry in [*content["training"], *content.get("test", [])]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        yield Scan("msd", index, index, {}, {}, f"{at(index)}: not a readable MSD index ({reason})")
        return
    task = _Task(index, name, modality, *_contract(index, name, content.get("labels"), meanings))
    for image, label in entries:
        yield _scan(task, image, label, present)


def _only_modality(named: dict[str, str]) -> str:
    if len(named) > 1:
        raise ValueError(f"its images have {len(named)} channels in one file; split them")
    return modalities.here().named(named["0"])


def _contract(index: str, name: str, labels: Any, meanings: Meanings) -> tuple[str, str]:
    """The task's own contract, or one from the names in its `labels`; and the problem if there is neither."""
    source = f"msd-{name}"
    if source in CONTRACTS and not (own := of_source(meanings, source)):
        return source, ""
    own = of_source(meanings, source)
    try:
        return contract_by_name({str(named): int(value) for value, named in labels.items()}, name, own).spelled(), ""
    except (ValueError, TypeError, AttributeError) as error:
        return "", f"{at(index)}: {str(error).replace('SOURCE', 'msd')}"


def _scan(task: _Task, image: str, label: str | None, present: set[str]) -> Scan:
    paths = [beside(task.index, name) for name in (image, label) if name]
    problem = task.problem
    for path, outside in paths:
        if outside or path not in present:
            problem = outside or f"{at(path)}: listed in dataset.json but missing"
    key = f"{task.name}/{PurePosixPath(image).name.partition('.')[0]}"
    images = {task.modality: paths[0][0]}
    labels = {paths[1][0]: task.contract} if label else {}
    return Scan("msd", key, key, images, labels, problem, dataset=task.name)


def _pair(entry: Any) -> tuple[str, str | None]:
    """A `training` entry is {image, label}, a `test` entry a bare path."""
    image, label = (entry["image"], entry["label"]) if isinstance(entry, dict) else (entry, None)
    if not isinstance(image, str) or not isinstance(label, str | None):
        raise TypeError("a path must be text")
    return image, label
