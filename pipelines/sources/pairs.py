"""A plain pair of folders: `images/X.nii.gz` and `labels/X.nii.gz`, without an index.

Also `imagesTr/` and `labelsTr/`. An image may be called after its label and a modality (`X_T1.nii.gz`) or the number of
a channel (`X_0000.nii.gz`). What values mean, and which modality a channel is of whose name does not say, stands in
params.yaml: data.labels and data.modality, by the source, `pairs-FOLDER`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipelines.scans import modalities
from pipelines.scans.label_names import Meanings, contract_by_value, of_source
from pipelines.scans.naming import at
from pipelines.sources import NIFTI, Scan, ambiguous, flare, patient_of, slug, stem_of

_IMAGES = re.compile(r"images?(?:Tr|Ts|Va|Val)?", re.IGNORECASE)
_LABELS = re.compile(r"(?:labels?(?:Tr|Ts|Va|Val)?|masks?)", re.IGNORECASE)
_DRAWN = re.compile(r"[_-](?:seg|segmentation|mask|labels?|gt)$", re.IGNORECASE)
_SUFFIXED = re.compile(r"(?P<name>.+?)[_-]+(?P<suffix>[^_-]+)")


@dataclass
class _Pair:
    """`images`: by modality, or by the number of a channel where the name does not say."""

    images: dict[str, list[str]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    for folder, images, labels in _folders(files):
        dataset = slug(PurePosixPath(folder).name)
        contract, problem = "", ""
        try:
            own = of_source(meanings, f"pairs-{dataset}".strip("-"))
            contract = contract_by_value(own).spelled()
        except ValueError as error:
            problem = str(error)
        for name, case in _matched(images, labels).items():
            own_problem = ambiguous({**case.images, "label": case.labels})
            if case.labels:
                own_problem = own_problem or (problem and f"{at(case.labels[0])}: {problem}")
                own_problem = own_problem if case.images else f"{at(case.labels[0])}: a label without its image"
            yield Scan(
                "pairs",
                f"{dataset}/{patient_of(name)}",
                f"{dataset}/{name}",
                {role: paths[0] for role, paths in case.images.items()},
                {case.labels[0]: contract} if case.labels else {},
                own_problem,
                dataset=dataset,
            )


def _folders(files: Iterable[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders that hold folders of images and of labels, with both; an index beside would name the files."""
    by_folder: dict[str, list[str]] = {}
    for path in sorted(files):
        by_folder.setdefault(path.rpartition("/")[0], []).append(path)
    indexed = {folder for folder, own in by_folder.items() if f"{folder}/dataset.json".lstrip("/") in own}
    images: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    for folder, own in by_folder.items():
        above, _, name = folder.rpartition("/")
        for found, pattern in ((images, _IMAGES), (labels, _LABELS)):
            if pattern.fullmatch(name) and above not in indexed:
                nifti = [path for path in own if re.search(NIFTI, path) and not flare.PATTERN.fullmatch(path)]
                found.setdefault(above, []).extend(nifti)
    both = sorted(folder for folder, own in images.items() if own and labels.get(folder))
    yield from ((above, images[above], labels[above]) for above in both)


def _matched(images: Sequence[str], labels: Sequence[str]) -> dict[str, _Pair]:
    drawn = {stem_of(path) for path in labels} | {_DRAWN.sub("", stem_of(path)) for path in labels}
    numbered = any(re.sub(r"_\d{4}$", "", stem_of(path)) in drawn - {stem_of(path)} for path in images)
    found: dict[str, _Pair] = {}
    for path in images:
        name, role = _parted(stem_of(path), drawn, numbered)
        found.setdefault(name, _Pair()).images.setdefault(role, []).append(path)
    for path in labels:
        stem = stem_of(path)
        found.setdefault(stem if stem in found else _DRAWN.sub("", stem), _Pair()).labels.append(path)
    return found


def _parted(stem: str, drawn: set[str], numbered: bool) -> tuple[str, str]:
    """A scan's name, and which channel of it an image is. `drawn`: what labels are called."""
    match = _SUFFIXED.fullmatch(stem)
    if match is None:
        return stem, "0"
    modality = modalities.here().find(match["suffix"])
    if stem in drawn:
        return stem, modality or "0"
    if numbered and re.fullmatch(r"\d{4}", match["suffix"]):
        return match["name"], str(int(match["suffix"]))
    return (match["name"], modality) if modality else (stem, "0")
