"""BIDS: `sub-X/[ses-Y/]{anat,ct,...}/sub-X[_ses-Y][_ENTITIES]_SUFFIX.nii.gz`, labels beside or in `derivatives/`.

The images of a session that differ in contrast only (suffix, `ce-`) are one scan; ingest keeps the channels that lie on
one grid. A label is a `_dseg`, a `_seg...` or a `label-NAME_mask`. What its values mean is looked up, in this order, in
the `dseg.tsv` (columns index, name) beside it or above it, in its `label-` entity, and, for a data set named after one
structure, in `dataset_description.json`. Without a meaning the scan is quarantined: a guess would be worse.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipelines.scans import modalities
from pipelines.scans.label_names import Meanings, UnknownLabelsError, contract_by_name, of_source
from pipelines.scans.naming import at
from pipelines.sources import Scan, read_index, slug

_NO_SCANS = {"dwi", "asl", "bold", "cbv", "phase"}  # called as a modality is, but 4-D, or of a field map
_PLACE = re.compile(r"(?P<top>(?:.*?/)??)(?:derivatives/(?:.*?/)?)?(?P<subject>sub-[A-Za-z0-9]+)/")
_NIFTI = r"(?i:\.nii(\.gz)?)$"
_NAME = re.compile(r"(?P<entities>sub-[A-Za-z0-9]+(?:_[A-Za-z]+-[A-Za-z0-9]+)*)_(?P<suffix>[A-Za-z0-9]+)" + _NIFTI)
_LABEL_NAME = re.compile(
    r"(?P<image>sub-[A-Za-z0-9]+(?:_[A-Za-z0-9]+(?:-[A-Za-z0-9]+)?)*?)"
    r"_(?P<kind>dseg|seg|mask|(?:seg|label)-[A-Za-z0-9]+(?:_(?:dseg|mask|seg))?)" + _NIFTI
)
_CONTRAST = ("ce", "suffix")
_OF_THE_LABEL = ("label", "desc", "space", "res", "den")
_MAX_TABLE_BYTES = 2**20


@dataclass
class _Session:
    """What makes one scan. `images`: modality -> paths. `stems`: the images' names. `key`: subject and entities."""

    top: str
    subject: str
    key: str
    images: dict[str, list[str]] = field(default_factory=dict)
    stems: list[str] = field(default_factory=list)


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    labels: dict[tuple[str, str], list[str]] = {}
    sessions: dict[tuple[str, str], _Session] = {}
    for path in sorted(files):
        place = _place(path)
        if place is not None and _image_of(path):
            labels.setdefault(place, []).append(path)
        elif place is not None and "/derivatives/" not in f"/{path}":
            _add_image(sessions, *place, path)
    tables = sorted(path for path in files if path.endswith(".tsv"))
    tops = {top for top, _ in labels} | {session.top for session in sessions.values()}
    names = {top: _dataset_name(root / top / "dataset_description.json") for top in sorted(tops)}
    claimed = set()
    for session in sessions.values():
        own = _own(session, labels.get((session.top, session.subject), []))
        claimed.update(own)
        yield _scan(session, _best(own), names[session.top], tables, root, meanings)
    for top, subject in sorted(labels):
        if orphans := [path for path in labels[top, subject] if path not in claimed and not _elsewhere(path)]:
            problem = f"{at(orphans[0])}: a label without an image of its name"
            yield Scan("bids", _key(names, top, subject), orphans[0], {}, {orphans[0]: ""}, problem)


def _place(path: str) -> tuple[str, str] | None:
    """The data set's folder and the subject of a NIfTI file below a `sub-` folder; None for anything else."""
    match = _PLACE.match(path)
    name = PurePosixPath(path).name
    if match is None or not re.search(_NIFTI, name) or not name.startswith(f"{match['subject']}_"):
        return None
    return match["top"], match["subject"]


def _key(names: dict[str, str], top: str, subject: str) -> str:
    """A subject among all data sets; by the data set's own name, so that it may move to another folder."""
    return f"{names[top] or top}/{subject}"


def _entities(name: str) -> dict[str, str] | None:
    match = _NAME.match(name)
    if match is None:
        return None
    return {**dict(part.split("-", 1) for part in match["entities"].split("_")), "suffix": match["suffix"]}


def _add_image(sessions: dict[tuple[str, str], _Session], top: str, subject: str, path: str) -> None:
    entities = _entities(PurePosixPath(path).name)
    modality = "" if entities is None else _shown(entities["suffix"])
    if entities is None or not modality or set(entities) & {"label", "desc"}:
        return
    if modality == "T1" and "ce" in entities:
        modality = "T1CE"
    same = "_".join(f"{key}-{value}" for key, value in entities.items() if key not in _CONTRAST)
    folder = PurePosixPath(path).parent.as_posix()
    session = sessions.setdefault((folder, same), _Session(top, subject, f"{same}/{PurePosixPath(folder).name}"))
    session.images.setdefault(modality, []).append(path)
    session.stems.append(_stem(path))


def _shown(suffix: str) -> str:
    """The modality that a suffix names; nothing of one that names none."""
    return "" if suffix in _NO_SCANS else modalities.here().find(suffix) or ""


def _image_of(label: str) -> str:
    """The name of the image that a label file belongs to; empty if the file is no label of an organ or lesion."""
    name = PurePosixPath(label).name
    match = _LABEL_NAME.match(name)
    if match is None or (match["kind"].endswith("mask") and "_label-" not in name):  # a brain mask is no organ
        return ""
    return match["image"]


def _elsewhere(label: str) -> bool:
    """Is it drawn in a template's space? Then it is no label of the image as it was taken."""
    match = re.search(r"_space-([A-Za-z0-9]+)_", PurePosixPath(label).name)
    return match is not None and not _shown(match[1]) and match[1] not in ("orig", "individual", "native", "scanner")


def _own(session: _Session, labels: list[str]) -> list[str]:
    """Labels of this scan's images."""
    stems = [_reduced(stem) for stem in session.stems]
    whole = [stem.rpartition("_")[0] for stem in stems]  # a label may name the session and not one image
    return [path for path in labels if _reduced(_image_of(path)) in (*stems, *whole) and not _elsewhere(path)]


def _best(labels: list[str]) -> list[str]:
    """A _dseg, if there is just one, goes before masks, a structure each, and hand-made others."""
    dense = [path for path in labels if re.search(r"_dseg" + _NIFTI, path)]
    return dense if len(dense) == 1 else labels


def _scan(
    session: _Session, labels: list[str], dataset: str, tables: list[str], root: Path, meanings: Meanings
) -> Scan:
    problem, contracts = "", dict.fromkeys(labels, "")
    for paths in session.images.values():
        if len(paths) > 1:
            problem = f"{at(paths[0])} and {at(paths[1])}: one contrast twice in one session; keep one"
    told = slug(dataset) or slug(PurePosixPath(session.top).name)
    source = f"bids-{told}".strip("-")
    unknown: dict[str, str] = {}
    for path in labels:
        try:
            contracts[path] = _contract(path, dataset, tables, root, of_source(meanings, source))
        except ValueError as error:
            problem = problem or f"{at(path)}: {error}"
            unknown |= error.proposals if isinstance(error, UnknownLabelsError) else {}
    if twice := [path for path, one in contracts.items() if one and list(contracts.values()).count(one) > 1]:
        problem = problem or f"{at(twice[0])} and {at(twice[1])}: one label twice for one scan; keep one"
    images = {modality: paths[0] for modality, paths in session.images.items()}
    names = {session.top: dataset}
    patient = _key(names, session.top, session.subject)
    case = _key(names, session.top, session.key)
    return Scan("bids", patient, case, images, contracts, problem, dataset=told, unknown=unknown)


def _reduced(stem: str) -> str:
    """An image's name without the entities that only a label carries."""
    return "_".join(part for part in stem.split("_") if part.partition("-")[0] not in _OF_THE_LABEL)


def _stem(path: str) -> str:
    return re.sub(_NIFTI, "", PurePosixPath(path).name)


def _contract(label: str, dataset: str, tables: list[str], root: Path, own: Mapping[str, str]) -> str:
    if table := _table_of(label, tables):
        return contract_by_name(_table(root / table), dataset, own).spelled()
    if match := re.search(r"_label-([A-Za-z0-9]+)_", PurePosixPath(label).name):
        try:
            return contract_by_name({match[1]: 1}, dataset, own).spelled()
        except UnknownLabelsError as error:
            raise UnknownLabelsError(str(error).replace(match[1], at(match[1])), error.proposals) from None
    if own:
        return contract_by_name({value: int(value) for value in own if value.isdigit()}, dataset, own).spelled()
    try:
        return contract_by_name({dataset: 1}, "").spelled()
    except ValueError:
        raise ValueError(
            "nothing says what its values mean; put a .tsv of its name beside it (columns index, name), or a dseg.tsv "
            "above, or say it in params.yaml, data.labels: {SOURCE: {1: a structure}}"
        ) from None


def _table_of(label: str, tables: list[str]) -> str | None:
    """The nearest table: the label's own, else the one of the nearest folder upwards."""
    own = re.sub(_NIFTI, ".tsv", label)
    if own in tables:
        return own
    above = [table for table in tables if PurePosixPath(table).parent in PurePosixPath(label).parents]
    general = [table for table in above if re.match(r"(?!sub-).*dseg\.tsv$", PurePosixPath(table).name)]
    return max(general, key=lambda table: len(PurePosixPath(table).parts), default=None)


def _table(path: Path) -> dict[str, int | list[int]]:
    """A BIDS look-up table, columns index and name. Raises ValueError with the reason."""
    try:
        if path.stat().st_size > _MAX_TABLE_BYTES:
            raise ValueError(f"its .tsv is larger than {_MAX_TABLE_BYTES} bytes")
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
        named = {row["name"]: int(row["index"]) for row in rows if int(row["index"]) != 0}
    except (OSError, UnicodeDecodeError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"its .tsv is no table of columns index and name ({type(error).__name__})") from None
    if len(named) != sum(int(row["index"]) != 0 for row in rows):
        raise ValueError("its .tsv gives one name twice")
    return dict(named)


def _dataset_name(path: Path) -> str:
    try:
        content = read_index(path)
    except ValueError:
        return ""
    name = content.get("Name") if isinstance(content, dict) else None
    return name if isinstance(name, str) else ""
