"""nnU-Net raw: `DatasetNNN_Name/dataset.json`, `imagesTr/CASE_0000.nii.gz` (a file a channel), `labelsTr/CASE.nii.gz`.

Channels and labels are known by name (`channel_names`, `labels`), so a data set brings its own label contract; regions
(`"whole tumor": [1, 2, 3]`) and `ignore` included. `imagesTs` are scans without label. A name of ours that is missing
there, or an unknown one, quarantines the data set's scans with the name.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.scans import modalities
from pipelines.scans.label_names import Meanings, contract_by_name, of_source
from pipelines.scans.naming import at
from pipelines.sources import Scan, beside, read_index, slug

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})$")
# A patient seen several times must not be on both sides of a split: patient001_frame01 and _frame12 are one.
_OCCASION = re.compile(r"^(.+?)[_-](?:frame|phase|time|visit|ses|session|tp)[-_]?\d+$", re.IGNORECASE)
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
    source = f"nnunet-{dataset}" if dataset else "nnunet"
    channels, contract, ending, problem = _meaning(content, name, of_source(meanings, source))
    problem = problem.replace("SOURCE", "nnunet")
    listed = content.get("dataset")
    cases = _listed(index, listed) if isinstance(listed, dict) else _from_names(index, files, ending)
    if not cases:
        raise ValueError(problem or f"no scan in imagesTr ends in {ending}")
    present = set(files)
    for case, (images, label, own) in cases.items():
        found = f"{at(index)}: {problem}" if problem else own or _missing(case, images, label, channels, present)
        shown = {channels.get(channel, f"channel {channel}"): path for channel, path in images.items()}
        patient = _OCCASION.sub(r"\1", case)
        yield Scan(
            "nnunet",
            f"{folder}/{patient}",
            f"{folder}/{case}",
            shown,
            {label: contract} if label else {},
            found,
            dataset=dataset,
        )


def _meaning(content: dict[str, Any], name: str, own: Mapping[str, str]) -> tuple[dict[int, str], str, str, str]:
    """Modality by channel, label contract, ending of file names; and the problem, if any of them cannot be meant."""
    ending = content.get("file_ending", ".nii.gz")
    try:
        channels = _channels(content["channel_names"])
        contract = contract_by_name(_mapping(content.get("labels"), "labels"), name, own).spelled()
        if ending not in _ENDINGS:
            raise ValueError(f"file_ending {ending!r} is not read; convert the scans to .nii.gz")
    except ValueError as error:
        return {}, "", ".nii.gz", str(error)
    return channels, contract, ending, ""


Case = tuple[dict[int, str], str | None, str]  # channel -> path, label, problem


def _channels(names: Any) -> dict[int, str]:
    channels: dict[int, str] = {}
    known = modalities.here()
    for key, name in _mapping(names, "channel_names").items():
        modality = known.find(str(name))
        if modality is None or not str(key).isdigit():
            raise ValueError(f"channel {key!r} is called {name!r}; {known.remedy(str(name))}")
        if modality in channels.values():
            raise ValueError(f"two channels are called {name!r}; a modality can be there once")
        channels[int(key)] = modality
    return channels


def _mapping(given: Any, key: str) -> dict[str, Any]:
    if not isinstance(given, dict) or not given:
        raise ValueError(f"{key} must map names, it is {type(given).__name__}")
    return given


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


def _listed(index: str, entries: dict[str, Any]) -> dict[str, Case]:
    """Cases that `dataset.json` lists file by file, relative to itself."""
    cases: dict[str, Case] = {}
    for case, entry in entries.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not all(isinstance(name, str) for name in [*images, label or ""]):
            cases[case] = ({}, None, f"{at(index)}: entry {at(case)} must give images (a list) and label (a path)")
            continue
        paths = [beside(index, name) for name in [*images, *([label] if label else [])]]
        problem = next((found for _, found in paths if found), "")
        shown = dict(enumerate(path for path, _ in paths[: len(images)]))
        cases[case] = (shown, paths[-1][0] if label else None, problem)
    return cases


def _missing(case: str, images: dict[int, str], label: str | None, channels: dict[int, str], present: set[str]) -> str:
    for path in (*images.values(), label):
        if path and path not in present:
            return f"{at(path)}: listed in dataset.json but missing"
    if absent := sorted(set(channels) - set(images)):
        return f"{at(next(iter(images.values()), case))}: channel {absent[0]:04d} ({channels[absent[0]]}) is missing"
    if extra := sorted(set(images) - set(channels)):
        return f"{at(images[extra[0]])}: channel {extra[0]:04d} is not in channel_names of dataset.json"
    return ""
