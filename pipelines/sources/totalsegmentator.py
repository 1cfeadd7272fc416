"""TotalSegmentator: `s0001/ct.nii.gz` or `mri.nii.gz`, and `s0001/segmentations/NAME.nii.gz`, a mask a structure.

Any folder with an image called so and such masks is a scan. What a mask shows is told by its name. A scan annotates the
structures that it has a mask of, empty ones included. Masks that data.labels calls `background` are not read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipelines.scans.contracts import BACKGROUND, IGNORE
from pipelines.scans.label_names import Meanings, UnknownLabelsError, contract_by_name, of_source
from pipelines.scans.naming import at
from pipelines.sources import NIFTI, Scan, ambiguous, slug

_PATTERN = re.compile(r"(?P<case>(?:.*/)?[^/]+)/(?:(?P<image>ct|mri)|segmentations/(?P<mask>[^/]+?))" + NIFTI)
_PUBLISHED = re.compile(r"s\d{4}")
_MODALITIES = {"ct": "CT", "mri": "MR"}


@dataclass
class _Folder:
    """By name: `ct` or `mri`; what a mask shows."""

    images: dict[str, list[str]] = field(default_factory=dict)
    masks: dict[str, list[str]] = field(default_factory=dict)


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    sets: dict[str, dict[str, _Folder]] = {}
    for path in sorted(files):
        if match := _PATTERN.fullmatch(path):
            above = PurePosixPath(match["case"]).parent.name
            case = sets.setdefault(above, {}).setdefault(match["case"], _Folder())
            part, name = (case.images, match["image"]) if match["image"] else (case.masks, match["mask"])
            part.setdefault(name, []).append(path)
    for above, cases in sets.items():
        chosen = {folder: case for folder, case in cases.items() if _is_one(folder, case)}
        yield from _dataset(above, chosen, meanings)


def _is_one(folder: str, case: _Folder) -> bool:
    return bool(case.images and case.masks) or _PUBLISHED.fullmatch(PurePosixPath(folder).name) is not None


def _dataset(above: str, cases: Mapping[str, _Folder], meanings: Meanings) -> Iterator[Scan]:
    dataset = re.sub(r"^totalsegmentator-?|dataset-?", "", slug(above)).strip("-")
    names = sorted({name for case in cases.values() for name in case.masks})
    meant, error = _meant(names, of_source(meanings, f"totalsegmentator-{dataset}".strip("-")))
    for folder, case in cases.items():
        key = f"{dataset}/{PurePosixPath(folder).name}"
        unknown = [name for name in case.masks if name not in meant]
        problem = ambiguous({**case.images, **case.masks})
        if not case.images:
            problem = f"{at(folder)}: segmentations without ct.nii.gz or mri.nii.gz"
        if error and unknown:
            where = at(case.masks[unknown[0]][0])
            problem = problem or f"{where}: {error}"
        masks = {name: paths[0] for name, paths in case.masks.items()}
        yield Scan(
            "totalsegmentator",
            key,
            key,
            {_MODALITIES[name]: paths[0] for name, paths in case.images.items()},
            {path: f"1={meant[name]}" for name, path in masks.items() if meant.get(name, BACKGROUND) != BACKGROUND},
            problem,
            dataset=dataset,
            unread=tuple(path for name, path in masks.items() if meant.get(name, BACKGROUND) == BACKGROUND),
            unknown={} if error is None else {name: error.proposals[name] for name in unknown},
        )


def _meant(names: Sequence[str], own: Mapping[str, str]) -> tuple[dict[str, str], UnknownLabelsError | None]:
    """What masks of these names show; and the error that tells of those whose names say nothing."""
    numbers, error = {name: number for number, name in enumerate(names, start=1)}, None
    by_name = {name: meant for name, meant in own.items() if not name.isdigit()}  # there is no value but 1
    try:
        contract = contract_by_name(numbers, "", by_name)
    except UnknownLabelsError as unknown:
        error = unknown
        known = {name: number for name, number in numbers.items() if name not in unknown.proposals}
        contract = contract_by_name(known, "", by_name)
        numbers = known
    what = {**contract.values, **dict.fromkeys(contract.ignore, IGNORE)}
    return {name: what.get(number, BACKGROUND) for name, number in numbers.items()}, error
