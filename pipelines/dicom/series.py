"""Bring a folder of de-identified series up to date with the DICOM files below another one.

Series are found by UID, in folders of any nesting; slices are sorted by position. What cannot be used gets a record
with the reason. A series is done again only if one of its files, a label, the parameters, the key or this code changed.
"""

import hashlib
import json
import logging
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import params
from pipelines.dicom import index, sandbox
from pipelines.dicom.convert import Conversion, SeriesRecord, SeriesSettings, convert
from pipelines.dicom.index import DicomFile
from pipelines.dicom.masks import meanings_of
from pipelines.dicom.profile import ProfileOptions
from pipelines.intake import listing
from pipelines.scans import key, vocabulary
from pipelines.scans.naming import Names
from pipelines.work import code
from pipelines.work.digests import sha256_of
from pipelines.work.writing import write_json

log = logging.getLogger(__name__)

_AN_OBJECT = {index.SEGMENTATION: "a segmentation", index.STRUCTURES: "a structure set"}
REFUSED = "refused"  # folder of the records of files that belong to no series


@dataclass
class _Series:
    """The files of one series, (sha256, path), and what was drawn on it."""

    entry: DicomFile
    files: list[tuple[str, Path]] = field(default_factory=list)
    labels: list[tuple[str, str, Path]] = field(default_factory=list)
    beside: list[tuple[str, Path]] = field(default_factory=list)
    patients: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"{self.entry.study[:8]}-{self.entry.series}"


def bring(
    raw: Path, listed: pa.Table, out: Path, pseudonyms: key.Pseudonyms, settings: params.Deidentify, memory: Path
) -> None:
    """Bring `out` up to date with the files below `raw`. `listed`: their inventory; `memory`: known headers."""
    files = _candidates(raw, listed, pseudonyms)
    entries = index.refresh(files, pseudonyms, memory, index.LIMITS)
    refused = {path: entry.reason for path, entry in entries.items() if entry.kind == index.REFUSED}
    series = _series(files, entries)
    refused |= _place_labels(series, files, entries)
    _place_neighbours(series, files, entries)
    out.mkdir(parents=True, exist_ok=True)
    called = {path: pseudonyms.name("path", path.relative_to(raw).as_posix()) for path in (*files, *refused)}
    kept = _write_series(list(series.values()), called, out, pseudonyms, settings)
    for path, reason in refused.items():
        record = SeriesRecord(quarantined=reason)
        kept.add(_write_record(out / REFUSED / f"{called[path]}.json", record, {"patient": "", "study": ""}))
    _remove_all_but(kept, out)
    _report(entries, out)


def _candidates(raw: Path, listed: pa.Table, pseudonyms: key.Pseudonyms) -> dict[Path, str]:
    """Files that no other layout claims: path -> sha256. What cannot be opened is ingest's to report."""
    sound = {row["path"]: row["sha256"] for row in listed.to_pylist() if not row["problem"]}
    names = Names(pseudonyms)
    named = {path: names.hidden(path.relative_to(raw).as_posix()) for path, _ in listing.walk(raw)}
    return {path: sound[name] for path, name in named.items() if name in sound}


def _series(files: dict[Path, str], entries: dict[Path, DicomFile]) -> dict[str, _Series]:
    """Image files by series; a file that lies there twice counts once."""
    found: dict[str, _Series] = {}
    for path in sorted(files, key=lambda path: (entries[path].instance, files[path], str(path))):
        entry = entries[path]
        if entry.kind == index.IMAGE:
            series = found.setdefault(entry.series, _Series(entry))
            series.patients.add(entry.patient)
            if files[path] not in {sha256 for sha256, _ in series.files[-1:]}:
                series.files.append((files[path], path))
    return found


def _place_labels(
    series: dict[str, _Series], files: dict[Path, str], entries: dict[Path, DicomFile]
) -> dict[Path, str]:
    """Segmentations and structure sets to the series they were drawn on; those without one: path -> reason."""
    homeless = {}
    for path, entry in entries.items():
        if entry.kind not in (index.SEGMENTATION, index.STRUCTURES):
            continue
        targets = [name for name in entry.references if name in series]
        if not targets and entry.place:
            in_place = [name for name, each in series.items() if each.entry.place == entry.place]
            targets = in_place if len(in_place) == 1 else []
        if targets:
            series[targets[0]].labels.append((files[path], entry.kind, path))
        else:
            homeless[path] = f"{_AN_OBJECT[entry.kind]} drawn on a series that is not in the folder"
    return homeless


def _place_neighbours(series: dict[str, _Series], files: dict[Path, str], entries: dict[Path, DicomFile]) -> None:
    """NIfTI files to the series in their folder, if it is the only one there."""
    folders = defaultdict(set)
    for name, each in series.items():
        for _, path in each.files:
            folders[path.parent].add(name)
    for path, entry in entries.items():
        if entry.kind == index.NIFTI and len(folders.get(path.parent, ())) == 1:
            series[next(iter(folders[path.parent]))].beside.append((files[path], path))


def _write_series(
    series: list[_Series], called: dict[Path, str], out: Path, pseudonyms: key.Pseudonyms, settings: params.Deidentify
) -> set[Path]:
    """Convert what changed; all files that belong in `out` now."""
    chosen = SeriesSettings(
        ProfileOptions(settings.clean_descriptors, settings.retain_device),
        settings.min_slices, settings.max_unevenness, settings.deface,
    )  # fmt: skip
    inputs = {each.name: _inputs(each, chosen, pseudonyms) for each in series}
    kept: set[Path] = set()
    changed = []
    for each in series:
        there = _unchanged(out / each.entry.patient / f"{each.name}.json", inputs[each.name])
        kept |= there
        if not there:
            changed.append(each)
    conversions = [_conversion(each, called, out, chosen, pseudonyms) for each in changed]
    limits = sandbox.Limits(settings.timeout_s, settings.memory_gib)
    for each, found in zip(changed, sandbox.each(convert, conversions, limits, "deidentify"), strict=True):
        record = SeriesRecord(quarantined=f"the series {found.reason}") if isinstance(found, sandbox.Refused) else found
        if len(each.patients) > 1:
            record = SeriesRecord(quarantined=f"its slices name {len(each.patients)} different patients")
        entry = each.entry
        stated = {"patient": entry.patient, "study": entry.study, "series": entry.series, "inputs": inputs[each.name]}
        kept.add(path := _write_record(out / entry.patient / f"{each.name}.json", record, stated))
        kept |= _outputs(path, record.volumes)
    log.info("deidentify: %d series, %d of them new or changed", len(series), len(changed))
    return kept


def _conversion(
    series: _Series, called: dict[Path, str], out: Path, settings: SeriesSettings, pseudonyms: key.Pseudonyms
) -> Conversion:
    return Conversion(
        tuple(path for _, path in series.files),
        tuple(called[path] for _, path in series.files),
        tuple((kind, path) for _, kind, path in sorted(series.labels)),
        tuple(path for _, path in sorted(series.beside)),
        series.name, out / series.entry.patient, settings, pseudonyms, series.entry.patient,
    )  # fmt: skip


def _inputs(series: _Series, settings: SeriesSettings, pseudonyms: key.Pseudonyms) -> str:
    """sha256 of all that a series' record depends on."""
    meanings = [meanings_of(path) for _, path in series.beside]
    content = [
        sorted(sha256 for sha256, _ in series.files),
        sorted((sha256, kind) for sha256, kind, _ in series.labels),
        sorted((sha256, path.name) for sha256, path in series.beside),
        [sha256_of(path) for path in meanings if path.is_file()],
        vocabulary.here().digest if series.labels or series.beside else "",
        sorted(series.patients), asdict(settings), pseudonyms.fingerprint(), code.digest("pipelines.dicom.convert"),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _unchanged(path: Path, inputs: str) -> set[Path]:
    """The files of a record made of the same inputs, if all are there; else none."""
    try:
        record = json.loads(path.read_text())
        if record["inputs"] != inputs:
            return set()
        files = {path} | {path.parent / name for volume in record["volumes"] for name in _names(volume)}
    except (OSError, ValueError, KeyError):
        return set()
    return files if all(file.is_file() for file in files) else set()


def _outputs(path: Path, volumes: list[Any]) -> set[Path]:
    return {path.parent / name for volume in volumes for name in _names(asdict(volume))}


def _names(volume: dict[str, Any]) -> list[str]:
    return [name for name in (volume["image"], volume["label"]) if name]


def _write_record(path: Path, record: SeriesRecord, stated: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**stated, **asdict(record)})
    return path


def _remove_all_but(kept: set[Path], out: Path) -> None:
    """What belongs to no file any more, and what a killed run left behind."""
    for path in sorted(out.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in kept:
            path.unlink()


def _report(entries: dict[Path, DicomFile], out: Path) -> None:
    for reason, count in sorted(
        Counter(entry.reason for entry in entries.values() if entry.kind == index.OTHER).items()
    ):
        log.info("deidentify: set aside %d files: %s", count, reason)
    foreign = sum(entry.kind == index.FOREIGN for entry in entries.values())
    if foreign:
        log.info("deidentify: passed over %d files that are no DICOM", foreign)
