"""What each DICOM file is, by its header, and to which series it belongs; in pseudonyms only.

    entry(path, pseudonyms) -> DicomFile     kind, patient, study, series ... no original identifier leaves this module
    refresh(...)                         of many files: known ones from .medseg/dicom.sqlite, others read in children

An entry is remembered by the file's sha256, the key's fingerprint and the version of this code, so that a file is
opened once in its life. A header that cannot be read is an entry too, with the reason.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import UID

from pipelines.dicom import sandbox
from pipelines.dicom.aside import is_secondary_capture
from pipelines.dicom.profile import patient_of, person_of
from pipelines.dicom.reading import DAMAGE, DicomError, NotDicomError, header, items, looks_like_dicom, text
from pipelines.scans.key import Pseudonyms
from pipelines.work.cache import Cache

VERSION = "2"  # of DicomFile and of how it is filled; another one reads every header again
CHUNK = 64  # headers a child reads
LIMITS = sandbox.Limits(seconds=60, memory_gib=2)  # of a chunk: a thousand times usual
IMAGE, SEGMENTATION, STRUCTURES, OTHER, REFUSED, FOREIGN, NIFTI = (
    "image", "segmentation", "structures", "other", "refused", "foreign", "nifti",
)  # fmt: skip
IMAGES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "legacy converted CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "enhanced MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "legacy converted MR",
    "1.2.840.10008.5.1.4.1.1.128": "PET",
    "1.2.840.10008.5.1.4.1.1.128.1": "legacy converted PET",
    "1.2.840.10008.5.1.4.1.1.130": "enhanced PET",
}
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # bitmaps; label maps
_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
_SUFFIXES = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class DicomFile:
    """`kind`: one of the constants above. `reason`: why it is refused, or what an `other` is. The rest are pseudonyms;
    `person`: of the patient's id without its issuer; `references`: series that a segmentation or structure set
    was drawn on."""

    kind: str
    reason: str = ""
    patient: str = ""
    person: str = ""
    study: str = ""
    series: str = ""
    place: str = ""
    instance: str = ""
    references: tuple[str, ...] = ()


def entry(path: Path, pseudonyms: Pseudonyms) -> DicomFile:
    """Never raises for what a file may hold."""
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return DicomFile(NIFTI)
    claims = path.suffix.lower() in _SUFFIXES
    try:
        if not claims and not looks_like_dicom(path):
            return DicomFile(FOREIGN)
        return _entry(header(path), pseudonyms)
    except NotDicomError as error:
        return DicomFile(REFUSED, str(error)) if claims else DicomFile(FOREIGN)
    except DicomError as error:
        return DicomFile(REFUSED, str(error))
    except DAMAGE as error:
        return DicomFile(REFUSED, f"not a readable DICOM file ({type(error).__name__})")


def _entry(dataset: Dataset, pseudonyms: Pseudonyms) -> DicomFile:
    kind, reason = _kind(dataset)
    if kind == OTHER:
        return DicomFile(OTHER, reason)
    series = text(dataset, "SeriesInstanceUID")
    if not series:
        raise DicomError("SeriesInstanceUID is missing; nobody can tell which slices belong together")
    study = text(dataset, "StudyInstanceUID") or series
    place = text(dataset, "FrameOfReferenceUID")
    return DicomFile(
        kind,
        patient=patient_of(dataset, pseudonyms),
        person=person_of(dataset, pseudonyms),
        study=pseudonyms.name("study", study),
        series=pseudonyms.name("series", series),
        place=pseudonyms.name("place", place) if place else "",
        instance=pseudonyms.name("instance", text(dataset, "SOPInstanceUID") or "unnamed"),
        references=tuple(sorted({pseudonyms.name("series", uid) for uid in _referenced(dataset) if uid})),
    )


def _kind(dataset: Dataset) -> tuple[str, str]:
    uid = text(dataset, "SOPClassUID")
    if uid in _SEGMENTATIONS:
        return SEGMENTATION, ""
    if uid == _STRUCTURES:
        return STRUCTURES, ""
    if uid in IMAGES or is_secondary_capture(uid):
        return IMAGE, ""
    if not uid and "Rows" in dataset and text(dataset, "Modality").upper() in ("CT", "MR"):
        return IMAGE, ""
    if "DirectoryRecordSequence" in dataset:
        return OTHER, "a media directory; files are found by themselves, so it is not followed"
    if not uid:
        raise DicomError("SOPClassUID is missing; nobody can tell what kind of object this is")
    name = UID(uid).name  # a private class's own UID would name its maker, so it is not shown
    return OTHER, f"not a scan: {name}" if name != uid else "not a scan: a class that the standard does not know"


def _referenced(dataset: Dataset) -> Iterable[str]:
    for item in items(dataset, "ReferencedSeriesSequence"):
        yield text(item, "SeriesInstanceUID")
    for place in items(dataset, "ReferencedFrameOfReferenceSequence"):
        for study in items(place, "RTReferencedStudySequence"):
            for item in items(study, "RTReferencedSeriesSequence"):
                yield text(item, "SeriesInstanceUID")


def refresh(
    files: dict[Path, str], pseudonyms: Pseudonyms, memory: Path, limits: sandbox.Limits
) -> dict[Path, DicomFile]:
    """The entry of every file. `files`: path -> sha256; `memory`: database of known entries; `limits`: a chunk's."""
    mark = f"{VERSION}:{pseudonyms.fingerprint()}"
    keys = {path: _key(path, sha256, mark) for path, sha256 in files.items()}
    with Cache(memory, "entry", ("entry",)) as known:
        result = {path: _recalled(found[0]) for path, key in keys.items() if (found := known.get(key))}
        for path, fresh in read_each([path for path in files if path not in result], pseudonyms, limits):
            known.put(keys[path], json.dumps(asdict(fresh)))
            result[path] = fresh
    return _one_pseudonym_each(result)


def _one_pseudonym_each(entries: dict[Path, DicomFile]) -> dict[Path, DicomFile]:
    """Some files of a patient may leave out who issued the id: they go to the one who has it, in the study or else in
    the whole folder."""
    issued: dict[tuple[str, str], set[str]] = defaultdict(set)
    for entry in entries.values():
        if entry.patient != entry.person:
            issued[entry.person, ""].add(entry.patient)
            issued[entry.person, entry.study].add(entry.patient)
    result = dict(entries)
    for path, entry in entries.items():
        found = issued.get((entry.person, entry.study)) or issued.get((entry.person, ""), set())
        if entry.patient == entry.person and len(found) == 1:
            result[path] = replace(entry, patient=next(iter(found)))
    return result


def _recalled(text: str) -> DicomFile:
    record = json.loads(text)
    return DicomFile(**{**record, "references": tuple(record["references"])})


def _key(path: Path, sha256: str, mark: str) -> str:
    return f"{mark}:{path.suffix.lower() in _SUFFIXES}:{path.name.lower().endswith(('.nii', '.nii.gz'))}:{sha256}"


def read_each(paths: list[Path], pseudonyms: Pseudonyms, limits: sandbox.Limits) -> Iterable[tuple[Path, DicomFile]]:
    """In chunks; a chunk that crashes or hangs is read again file by file, so that only the culprit is refused."""
    work = partial(_entries, pseudonyms=pseudonyms)
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    broken: list[list[Path]] = []
    for chunk, found in zip(chunks, sandbox.each(work, chunks, limits, "headers"), strict=True):
        if isinstance(found, sandbox.Refused):
            broken.extend([path] for path in chunk)
        else:
            yield from zip(chunk, found, strict=True)
    for (path,), found in zip(broken, sandbox.each(work, broken, limits, "headers, one by one"), strict=True):
        yield path, DicomFile(REFUSED, f"the header {found.reason}") if isinstance(found, sandbox.Refused) else found[0]


def _entries(paths: list[Path], pseudonyms: Pseudonyms) -> list[DicomFile]:
    return [entry(path, pseudonyms) for path in paths]
