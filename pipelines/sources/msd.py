"""Medical Segmentation Decathlon, and what is laid out like it (AMOS): `dataset.json` lists images and labels.

A task without a contract of its own (pipelines/scans/contracts.py) is known by the names of its labels. Several
modalities are the channels of 4-D files. AMOS lists two and has one in each file: CT up to number 499, MR from 500 on.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.scans import channels
from pipelines.scans.contracts import CONTRACTS
from pipelines.scans.label_names import Meanings, UnknownLabelsError, contract_by_name, of_source
from pipelines.scans.naming import at
from pipelines.sources import Scan, as_listed, beside, listed_as, read_index, slug, stem_of
from pipelines.sources.channel_names import channels_by_name

_PARTS = ("training", "validation", "test")
_AMOS, _AMOS_FIRST_MR = re.compile(r"amos_(\d{4})"), 500


@dataclass(frozen=True)
class _Task:
    """What an index says of all its scans. `channels`: modality by number. `problem`: why none of them can be used."""

    index: str
    name: str
    channels: dict[int, str]
    contract: str = ""
    problem: str = ""
    unknown: Mapping[str, str] = field(default_factory=dict)


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    present = as_listed(files)
    for index in sorted(path for path in files if PurePosixPath(path).name == "dataset.json"):
        try:
            content = read_index(root / index)
            if not (isinstance(content, dict) and "channel_names" in content):  # else nnU-Net's index of the same name
                yield from _scans(index, content, present, meanings)
        except ValueError as error:
            yield Scan("msd", index, index, {}, {}, f"{at(index)}: not a readable MSD index ({error})")


def _scans(index: str, content: Any, present: Mapping[str, str], meanings: Meanings) -> list[Scan]:
    """Raises ValueError with what the index lacks."""
    if not isinstance(content, dict):
        raise ValueError(f"it must be a mapping, it is {type(content).__name__}")
    name = content.get("name") or re.sub(r"^Task\d+_", "", PurePosixPath(index).parent.name)
    if not isinstance(name, str):
        raise ValueError(f"name must be text, it is {type(name).__name__}")
    task = _named(index, name.lower(), content, meanings)
    entries = [_pair(entry) for part in _PARTS for entry in _entries(content, part)]
    return [_scan(task, image, label, present) for image, label in entries]


def _entries(content: dict[str, Any], part: str) -> list[Any]:
    entries = content.get(part, [])
    if not isinstance(entries, list) or (part == "training" and not entries):
        raise ValueError(f"{part} must list scans, it is {type(entries).__name__ if entries else 'empty or missing'}")
    return entries


def _named(index: str, name: str, content: dict[str, Any], meanings: Meanings) -> _Task:
    """The task's own contract, or one from the names in its `labels`; and the problem if there is neither."""
    found, source = channels_by_name(content.get("modality"), "modality"), f"msd-{slug(name)}"
    own = of_source(meanings, source)
    if source in CONTRACTS and not own:
        return _Task(index, name, found, source)
    try:
        labels = _values(content.get("labels"))
        return _Task(index, name, found, contract_by_name(labels, name, own).spelled())
    except ValueError as error:
        unknown = error.proposals if isinstance(error, UnknownLabelsError) else {}
        return _Task(index, name, found, problem=f"{at(index)}: {error}", unknown=unknown)


def _values(labels: Any) -> dict[str, int]:
    """By name. An index has them by value; some are turned round."""
    if not isinstance(labels, dict) or not labels:
        raise ValueError(f"labels must map values to names, it is {type(labels).__name__}")
    if all(str(value).isdigit() for value in labels):
        return {str(name): int(value) for value, name in labels.items()}
    if all(type(value) is int for value in labels.values()):
        return dict(labels)
    raise ValueError('labels must map values to names, as in {"0": "background", "1": "spleen"}')


def _scan(task: _Task, image: str, label: str | None, present: Mapping[str, str]) -> Scan:
    problem, paths = task.problem, []
    for name in (image, label):
        if name is not None:
            path, outside = beside(task.index, name)
            there = listed_as(path, present)
            if outside or there is None:
                problem = outside or f"{at(path)}: listed in dataset.json but missing"
            paths.append(there or path)
    key = f"{task.name}/{stem_of(image)}"
    labels = {paths[1]: task.contract} if label else {}
    images = _images(task, paths[0])
    return Scan("msd", key, key, images, labels, problem, dataset=slug(task.name), unknown=task.unknown)


def _images(task: _Task, path: str) -> dict[str, str]:
    if amos := _AMOS.fullmatch(stem_of(path)):
        return {"MR" if int(amos[1]) >= _AMOS_FIRST_MR else "CT": path}
    if len(task.channels) == 1:
        return dict.fromkeys(task.channels.values(), path)
    return {modality: channels.numbered(path, number) for number, modality in task.channels.items()}


def _pair(entry: Any) -> tuple[str, str | None]:
    """A `training` entry is {image, label}, a `test` entry a bare path or {image}."""
    image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
    if not isinstance(image, str) or not isinstance(label, str | None):
        raise ValueError("an entry must be a path, or paths as image and label")
    return image, label
