"""nnU-Net raw: `DatasetNNN_Name/dataset.json`, `imagesTr/CASE_0000.nii.gz` (a file a channel), `labelsTr/CASE.nii.gz`.

Channels and labels are known by name (`channel_names`, `labels`), so a data set brings its own label contract; regions
(`"whole tumor": [1, 2, 3]`) and `ignore` included. `imagesTs` are scans without label. A name of ours that is missing
there, or an unknown one, quarantines the data set's scans with the name.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.scans.label_names import Meanings, UnknownLabelsError, contract_by_name, of_source
from pipelines.scans.naming import at
from pipelines.sources import Scan, as_listed, beside, listed_as, patient_of, read_index, slug
from pipelines.sources.channel_names import channels_by_name

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})$")
_ENDINGS = (".nii.gz", ".nii")


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    for index in sorted(path for path in files if PurePosixPath(path).name == "dataset.json"):
        claimed = re.match(r"Dataset\d{3}_", PurePosixPath(index).parent.name) is not None
        try:
            content = read_index(root / index)
            if isinstance(content, dict) and "channel_names" in content:
                claimed = True
                yield from _dataset(index, content, sorted(files), root, meanings)
            elif claimed:
                raise ValueError("is no mapping with channel_names")
        except ValueError as error:
            if claimed:  # else it is another layout's
                yield Scan("nnunet", index, index, {}, {}, f"{at(index)}: not a readable nnU-Net index ({error})")


def _dataset(index: str, content: dict[str, Any], files: list[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    """Its scans; where the index is wrong, all of them with that problem. Raises ValueError if it has none."""
    folder = PurePosixPath(index).parent.name or root.resolve().name
    name = re.sub(r"^Dataset\d+_", "", folder)
    dataset = slug(name) if name != folder else ""  # a folder called otherwise may bear the name of a person
    meaning = _meaning(content, name, of_source(meanings, f"nnunet-{dataset}" if dataset else "nnunet"))
    listed, present = content.get("dataset"), as_listed(files)
    cases = _listed(index, listed, present) if isinstance(listed, dict) else _from_names(index, files, meaning.ending)
    if not cases:
        raise ValueError(meaning.problem or f"no scan in imagesTr ends in {meaning.ending}")
    for case, (images, label, own) in cases.items():
        told = f"{at(index)}: {meaning.problem}" if meaning.problem else ""
        missing = _missing(case, images, label, meaning.channels, present)
        yield Scan(
            "nnunet",
            f"{folder}/{patient_of(case)}",
            f"{folder}/{case}",
            {meaning.channels.get(channel, str(channel)): path for channel, path in images.items()},
            {label: meaning.contract} if label else {},
            told or own or missing,
            dataset=dataset,
            unknown=meaning.unknown,
        )


@dataclass(frozen=True)
class _Meaning:
    """What an index says of all its scans. `channels`: modality by number. `ending`: of file names. `problem`: if
    something of it cannot be meant."""

    channels: dict[int, str] = field(default_factory=dict)
    contract: str = ""
    ending: str = _ENDINGS[0]
    problem: str = ""
    unknown: Mapping[str, str] = field(default_factory=dict)


def _meaning(content: dict[str, Any], name: str, own: Mapping[str, str]) -> _Meaning:
    channels, ending = {}, content.get("file_ending", _ENDINGS[0])
    try:
        if ending not in _ENDINGS:
            ending = _ENDINGS[0]
            raise ValueError(f"file_ending {content['file_ending']!r} is not read; convert the scans to .nii.gz")
        channels = channels_by_name(content["channel_names"], "channel_names")
        if not isinstance(labels := content.get("labels"), dict) or not labels:
            raise ValueError(f"labels must map names, it is {type(labels).__name__}")
        return _Meaning(channels, contract_by_name(labels, name, own).spelled(), ending)
    except ValueError as error:
        unknown = error.proposals if isinstance(error, UnknownLabelsError) else {}
        return _Meaning(channels, "", ending, str(error), unknown)


Case = tuple[dict[int, str], str | None, str]  # channel -> path, label, problem


def _from_names(index: str, files: list[str], ending: str) -> dict[str, Case]:
    """Cases by the names in imagesTr, imagesTs and labelsTr; a label without images is a case with a problem."""
    top = f"{PurePosixPath(index).parent.as_posix()}/".removeprefix("./")
    labels: dict[str, str] = {}
    cases: dict[str, Case] = {}
    for path in files:
        kind, _, name = path.removeprefix(top).partition("/")
        if not path.startswith(top) or "/" in name or not name.lower().endswith(ending):
            continue
        stem = name[: -len(ending)]
        if kind == "labelsTr":
            labels[stem] = path
        elif kind in ("imagesTr", "imagesTs"):
            match = _CHANNEL.match(stem)
            case = match["case"] if match else stem
            images, _, problem = cases.get(case, ({}, None, ""))
            if match is None:
                problem = f"{at(path)}: its name does not end in a channel like _0000"
            cases[case] = ({**images, int(match["channel"]) if match else 0: path}, None, problem)
    for stem, path in labels.items():
        images, _, problem = cases.get(stem, ({}, None, f"{at(path)}: a label without its images"))
        cases[stem] = (images, path, problem)
    return cases


def _listed(index: str, entries: dict[str, Any], present: Mapping[str, str]) -> dict[str, Case]:
    """Cases that `dataset.json` lists file by file, relative to itself."""
    cases: dict[str, Case] = {}
    for case, entry in entries.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not all(isinstance(name, str) for name in [*images, label or ""]):
            cases[case] = ({}, None, f"{at(index)}: entry {at(case)} must give images (a list) and label (a path)")
            continue
        named = [beside(index, name) for name in [*images, *([label] if label else [])]]
        problem = next((found for _, found in named if found), "")
        paths = [listed_as(path, present) or path for path, _ in named]
        cases[case] = (dict(enumerate(paths[: len(images)])), paths[-1] if label else None, problem)
    return cases


def _missing(
    case: str, images: dict[int, str], label: str | None, channels: dict[int, str], present: Mapping[str, str]
) -> str:
    for path in (*images.values(), label):
        if path and not listed_as(path, present):
            return f"{at(path)}: listed in dataset.json but missing"
    if absent := sorted(set(channels) - set(images)):
        return f"{at(next(iter(images.values()), case))}: channel {absent[0]:04d} ({channels[absent[0]]}) is missing"
    if extra := sorted(set(images) - set(channels)):
        return f"{at(images[extra[0]])}: channel {extra[0]:04d} is not in channel_names of dataset.json"
    return ""
