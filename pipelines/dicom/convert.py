"""One DICOM series with its labels -> de-identified NIfTI volumes and a record of what was kept and corrected.

    convert(conversion) -> SeriesRecord      runs in a child of pipelines/dicom/sandbox.py; writes below its folder

Nothing of the original passes but voxels, geometry and the attributes in KEPT, taken from the header after
pipelines/dicom/profile.py. Reasons and notes name a file by the pseudonym of its path, or by its place in the series
("slice 7 of 22 by position"), never by its path; `medseg data whereis` finds it for someone who holds the key.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue

from pipelines.dicom import burned, deface
from pipelines.dicom.aside import planning
from pipelines.dicom.aside import reason as not_a_scan
from pipelines.dicom.descriptors import technical
from pipelines.dicom.frames import Frame, frames_of, kinds_of
from pipelines.dicom.masks import Labels, label_map
from pipelines.dicom.profile import ProfileOptions, deidentified
from pipelines.dicom.reading import DAMAGE, DicomError, header, is_lossy, text
from pipelines.dicom.roles import CT, PET
from pipelines.dicom.sequence import flattened, recognise
from pipelines.dicom.split import DuplicatedError, Parts, split, split_by_number, without_copies
from pipelines.dicom.stack import Stack
from pipelines.dicom.stored import Stored, scaled
from pipelines.scans import vocabulary
from pipelines.scans.key import Pseudonyms
from pipelines.work.wording import counted
from pipelines.work.writing import replacing

# Kept in the record, after de-identification: what a model's performance may depend on.
KEPT = (
    "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "StationName", "MagneticFieldStrength",
    "BodyPartExamined", "SeriesDescription", "ProtocolName", "ScanningSequence", "EchoTime", "RepetitionTime",
    "InversionTime", "FlipAngle", "ConvolutionKernel", "KVP", "SliceThickness", "ImageType",
)  # fmt: skip
AIR_HU = -1024


@dataclass(frozen=True)
class SeriesSettings:
    """Block `deidentify` of params.yaml, as far as a series depends on it."""

    options: ProfileOptions
    min_slices: int
    max_unevenness: float
    deface: bool


@dataclass(frozen=True)
class Conversion:
    """`files`: of one series; `called`: their pseudonyms. `labels`: (kind of object, file). `beside`: NIfTI files in
    the series' folder. `name`: of the outputs, without ending. `folder`: where they go. `patient`: pseudonym; empty:
    the one that the header alone gives."""

    files: tuple[Path, ...]
    called: tuple[str, ...]
    labels: tuple[tuple[str, Path], ...]
    beside: tuple[Path, ...]
    name: str
    folder: Path
    settings: SeriesSettings
    pseudonyms: Pseudonyms
    patient: str = ""


@dataclass
class SeriesVolume:
    """One volume of a series. `image`, `label`: file names, empty if there is none. `set_aside`: images of the series
    that are no scan, and why."""

    role: str = ""
    recognised_by: str = ""
    image: str = ""
    label: str = ""
    annotated: list[str] = field(default_factory=list)
    shape: list[int] = field(default_factory=list)
    affine: list[list[float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    quarantined: str = ""
    set_aside: str = ""


@dataclass
class SeriesRecord:
    """What a series became. `quarantined`: why none of it can be used; `set_aside`: why it is not meant to be."""

    volumes: list[SeriesVolume] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    study_day: int | None = None
    quarantined: str = ""
    set_aside: str = ""


def convert(conversion: Conversion) -> SeriesRecord:
    """Never raises for what the files may hold; MemoryError is left to the sandbox."""
    record = SeriesRecord()
    try:
        headers = [_at(conversion.called[k], header, path) for k, path in enumerate(conversion.files)]
        record.attributes, record.study_day = _kept(
            deidentified(headers[0], conversion.pseudonyms, conversion.settings.options, conversion.patient)
        )
        frames, aside = _scans(headers, conversion)
        if reason := (planning(frames) if frames else "; ".join(aside)):
            unused = "; what was drawn on it is not used" if conversion.labels else ""
            record.set_aside = f"{reason}{unused}"
            return record
        work = _Work(conversion, headers, frames)
        parts = _parts(frames, work)
        for k, stacked in enumerate(parts.volumes):
            name = conversion.name if k == 0 else f"{conversion.name}-{k + 1}"
            record.volumes.append(_volume(name, stacked, [parts.note] if parts.note else [], work))
        told = (f"{counted(count, 'image')} of the series: {reason}" for reason, count in aside.items())
        record.volumes += [SeriesVolume(set_aside=reason) for reason in told]
    except DAMAGE as error:
        record.quarantined = _told(error)
    return record


class _Work:
    """What the volumes of a series share."""

    def __init__(self, conversion: Conversion, headers: list[Dataset], frames: list[Frame]) -> None:
        self.conversion, self.headers = conversion, headers
        self.stored = Stored(conversion.files, conversion.called)
        self.labels = Labels(conversion.labels, conversion.beside)
        self.diffusion = any(isinstance(b := frame.keys.get("b"), float) and b > 0 for frame in frames)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, DicomError) else f"damaged ({type(error).__name__})"


def _at(called: str, work: Any, *arguments: Any) -> Any:
    """`work`, its refusal told with the file's pseudonym."""
    try:
        return work(*arguments)
    except DicomError as error:
        raise DicomError(f"file {called}: {error}") from None


def _scans(headers: list[Dataset], conversion: Conversion) -> tuple[list[Frame], Counter[str]]:
    """The frames of a scan, and how many images are none, by reason. Raises DicomError if one of a scan is unusable."""
    frames, aside = [], Counter[str]()
    for k, each in enumerate(headers):
        if reason := not_a_scan(each, kinds_of(each)):
            aside[reason] += 1
            continue
        if reason := burned.stated(each):
            raise DicomError(f"{reason}; blank or remove it, then it can be used")
        found = _at(conversion.called[k], frames_of, each, k)
        reasons = {kinds: not_a_scan(each, kinds) for kinds in {frame.kinds for frame in found}}
        frames += [frame for frame in found if not reasons[frame.kinds]]
        aside.update(filter(None, (reasons[frame.kinds] for frame in found)))
    return frames, aside


def _parts(frames: list[Frame], work: _Work) -> Parts:
    """The volumes of a series. Where no attribute tells them apart the images are looked at: copies count once."""
    least = work.conversion.settings.min_slices
    try:
        return split(frames, least)
    except DuplicatedError as refusal:
        digests = [hashlib.sha256(array.tobytes()).hexdigest() for array in work.stored.of(frames)]
        if once := without_copies(frames, digests):
            return Parts([once])
        return split_by_number(frames, least, refusal)


def _volume(name: str, frames: list[Frame], notes: list[str], work: _Work) -> SeriesVolume:
    """One stack, written; a refusal stays with this volume and the series' others go on."""
    volume = SeriesVolume()
    found = recognise(flattened(work.headers[frames[0].file], frames[0].index), work.diffusion)
    volume.role, volume.recognised_by = found.role, found.by
    volume.notes += [*notes, *filter(None, [found.note]), *_remarks(frames, work.headers)]
    try:
        _fill(volume, name, frames, work)
    except DAMAGE as error:
        volume.quarantined = _told(error)
        volume.image = volume.label = ""
    return volume


def _remarks(frames: list[Frame], headers: list[Dataset]) -> list[str]:
    """What is odd about images that can be used."""
    of_files = [headers[file] for file in dict.fromkeys(frame.file for frame in frames)]
    notes = []
    if any(map(burned.from_film, of_files)):
        notes.append(
            "the header says that a film or screen was digitised (ConversionType), the class that it is a scan"
        )
    if any(map(is_lossy, of_files)):
        notes.append("lossy compression: the values are near those of the scanner, not the same")
    if (places := len({frame.keys.get("frame of reference") for frame in frames})) > 1:
        notes.append(f"slices name {places} frames of reference; their places were taken as of one")
    return notes


def _fill(volume: SeriesVolume, name: str, frames: list[Frame], work: _Work) -> None:
    settings, folder = work.conversion.settings, work.conversion.folder
    stack = Stack.of(frames, settings.min_slices, settings.max_unevenness)
    volume.notes += stack.notes
    slices = scaled(stack.frames, work.stored.of(stack.frames))
    if (k := burned.seen(slices)) is not None:
        raise DicomError(f"slice {k + 1} of {len(slices)} by position seems to hold burned-in text in its margin")
    if stack.frames[0].inverted:
        slices = slices.max() + slices.min() - slices
        volume.notes.append("MONOCHROME1: values inverted")
    masks, notes = work.labels.on(stack)
    volume.notes += notes
    fill = AIR_HU if volume.role == CT else float(slices.min())
    array = _voxels(stack.correct(slices, 1, fill))
    if settings.deface and volume.role != PET and deface.is_head(work.headers[0]):
        array, note = deface.without_face(array, stack.affine)
        volume.notes.append(note)
    volume.shape, volume.affine = list(array.shape), stack.affine.round(6).tolist()
    volume.image = _write(folder / f"{name}.nii.gz", array, stack.affine)
    if masks:
        label, notes = label_map(masks, stack)
        volume.notes += notes
        volume.label = _write(folder / f"{name}-label.nii.gz", _voxels(label), stack.affine)
        words = vocabulary.here()
        volume.annotated = sorted(masks, key=lambda structure: words[structure].id)


def _voxels(slices: np.ndarray) -> np.ndarray:
    """(slice, row, column) -> NIfTI's (i, j, k) = (column, row, slice)."""
    return np.ascontiguousarray(slices.transpose(2, 1, 0))


def _write(path: Path, array: np.ndarray, affine: np.ndarray) -> str:
    """Deterministic: no date, no name in the gzip header."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        nib.save(image, temporary)
    return path.name


def _kept(dataset: Dataset) -> tuple[dict[str, Any], int | None]:
    """Attributes for the record, and the study's day on the patient's own shifted calendar."""
    kept: dict[str, Any] = {}
    for keyword in KEPT:
        value = dataset.get(keyword)
        if value is not None and value != "":
            several = [technical(keyword, str(each)) for each in (value if isinstance(value, MultiValue) else [value])]
            known = [each for each in several if each]
            kept[keyword] = known if isinstance(value, MultiValue) else "".join(known)
    day = text(dataset, "StudyDate")
    return kept, date(int(day[:4]), int(day[4:6]), int(day[6:8])).toordinal() if len(day) == 8 else None
