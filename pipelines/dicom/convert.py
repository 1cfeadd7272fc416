"""One DICOM series with its labels -> de-identified NIfTI volumes and a record of what was kept and corrected.

    convert(conversion) -> SeriesRecord      runs in a child of pipelines/dicom/sandbox.py; writes below its folder

Nothing of the original passes but voxels, geometry and the attributes in KEPT, taken from the header after
pipelines/dicom/profile.py. Reasons and notes name a file by the pseudonym of its path, or by its place in the series
("slice 7 of 22 by position"), never by its path; `medseg data whereis` finds it for someone who holds the key.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue

from pipelines.dicom import burned, contours, deface
from pipelines.dicom.descriptors import technical
from pipelines.dicom.frames import Frame, frames_of
from pipelines.dicom.profile import ProfileOptions, deidentified
from pipelines.dicom.reading import DAMAGE, DicomError, header, pixels, text, whole
from pipelines.dicom.sequence import flattened, recognise
from pipelines.dicom.stack import DuplicatedError, Stack, split, without_copies
from pipelines.scans import vocabulary
from pipelines.scans.contracts import smallest_type
from pipelines.scans.key import Pseudonyms
from pipelines.scans.label_names import structure_of
from pipelines.scans.volume import VolumeError, read
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
    the series' folder. `name`: of the outputs, without ending. `folder`: where they go."""

    files: tuple[Path, ...]
    called: tuple[str, ...]
    labels: tuple[tuple[str, Path], ...]
    beside: tuple[Path, ...]
    name: str
    folder: Path
    settings: SeriesSettings
    pseudonyms: Pseudonyms


@dataclass
class SeriesVolume:
    """One volume of a series. `image`, `label`: file names, empty if there is none."""

    role: str = ""
    recognised_by: str = ""
    image: str = ""
    label: str = ""
    annotated: list[str] = field(default_factory=list)
    shape: list[int] = field(default_factory=list)
    affine: list[list[float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    quarantined: str = ""


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
        first = headers[0]
        if reason := next(filter(None, map(burned.stated, headers)), ""):
            raise DicomError(f"{reason}; blank or remove it, then it can be used")
        record.attributes, record.study_day = _kept(
            deidentified(first, conversion.pseudonyms, conversion.settings.options)
        )
        frames = [frame for k, each in enumerate(headers) for frame in _at(conversion.called[k], frames_of, each, k)]
        if any(frame.localiser for frame in frames):
            record.set_aside = "a localiser: planning images of several orientations"
            return record
        for k, stacked in enumerate(_volumes(frames, conversion)):
            name = conversion.name if k == 0 else f"{conversion.name}-{k + 1}"
            record.volumes.append(_volume(name, stacked, headers, conversion))
    except DAMAGE as error:
        record.quarantined = str(error) if isinstance(error, DicomError) else f"damaged ({type(error).__name__})"
    return record


def _at(called: str, work: Any, *arguments: Any) -> Any:
    """`work`, its refusal told with the file's pseudonym."""
    try:
        return work(*arguments)
    except DicomError as error:
        raise DicomError(f"file {called}: {error}") from None


def _volumes(frames: list[Frame], conversion: Conversion) -> list[list[Frame]]:
    try:
        return split(frames)
    except DuplicatedError:
        stored = _stored(frames, conversion)
        digests = [hashlib.sha256(array.tobytes()).hexdigest() for array in stored]
        return [without_copies(frames, digests)]


def _volume(name: str, frames: list[Frame], headers: list[Dataset], conversion: Conversion) -> SeriesVolume:
    """One stack, written; a refusal stays with this volume and the series' others go on."""
    volume = SeriesVolume()
    own = flattened(headers[frames[0].file], frames[0].index)
    found = recognise(own)
    volume.role, volume.recognised_by = found.role, found.by
    volume.notes += [found.note] if found.note else []
    try:
        stack = Stack.of(frames, conversion.settings.min_slices, conversion.settings.max_unevenness)
        volume.notes += stack.notes
        slices = _values(stack, conversion)
        if (k := burned.seen(slices)) is not None:
            raise DicomError(f"slice {k + 1} of {len(slices)} by position seems to hold burned-in text in its margin")
        if stack.frames[0].inverted:
            slices = slices.max() + slices.min() - slices
            volume.notes.append("MONOCHROME1: values inverted")
        masks = _masks(stack, conversion, volume)
        fill = AIR_HU if found.role == "CT" else float(slices.min())
        array = _voxels(stack.correct(slices, 1, fill))
        if conversion.settings.deface and found.role != "PET" and deface.is_head(headers[0]):
            array, note = deface.without_face(array, stack.affine)
            volume.notes.append(note)
        volume.shape, volume.affine = list(array.shape), stack.affine.round(6).tolist()
        volume.image = _write(conversion.folder / f"{name}.nii.gz", array, stack.affine)
        if masks:
            label = _voxels(_label_map(masks, stack, volume))
            volume.label = _write(conversion.folder / f"{name}-label.nii.gz", label, stack.affine)
            words = vocabulary.here()
            volume.annotated = sorted(masks, key=lambda structure: words[structure].id)
    except DAMAGE as error:
        volume.quarantined = str(error) if isinstance(error, DicomError) else f"damaged ({type(error).__name__})"
        volume.image = volume.label = ""
    return volume


def _stored(frames: Sequence[Frame], conversion: Conversion) -> list[np.ndarray]:
    """Stored values of every frame; a file of many frames is opened once."""
    opened: dict[int, np.ndarray] = {}
    result = []
    for frame in frames:
        if frame.file not in opened:
            opened = {frame.file: _at(conversion.called[frame.file], _pixels_of, conversion.files[frame.file])}
        result.append(opened[frame.file][frame.index])
    return result


def _pixels_of(path: Path) -> np.ndarray:
    return pixels(whole(path))


def _values(stack: Stack, conversion: Conversion) -> np.ndarray:
    """(n, rows, columns) after slope and intercept: int16 where that is exact, else float32."""
    stored = _stored(stack.frames, conversion)
    scaled = [(frame.slope, frame.intercept) for frame in stack.frames]
    if all(
        array.dtype.kind in "iu" and slope == 1 and float(i).is_integer()
        for array, (slope, i) in zip(stored, scaled, strict=True)
    ):
        values = np.stack([array.astype(np.int32) + int(i) for array, (_, i) in zip(stored, scaled, strict=True)])
        if values.min() >= -(2**15) and values.max() < 2**15:
            return values.astype(np.int16)
        return values.astype(np.float32)
    values = np.stack(
        [array.astype(np.float32) * np.float32(s) + np.float32(i) for array, (s, i) in zip(stored, scaled, strict=True)]
    )
    if not np.isfinite(values).all():
        raise DicomError(f"{int(values.size - np.isfinite(values).sum())} voxels are NaN or infinite")
    return values


def _masks(stack: Stack, conversion: Conversion, volume: SeriesVolume) -> dict[str, np.ndarray]:
    """Structure -> mask on the slices as drawn; a label that cannot be used quarantines the volume."""
    drawings = []
    for k, (kind, path) in enumerate(conversion.labels):
        try:
            drawings.append(contours.read(kind, whole(path), stack))
        except DicomError as error:
            raise DicomError(f"{kind} {k + 1} of {len(conversion.labels)}: {error}") from None
    masks, notes = contours.merged(drawings)
    for path in conversion.beside:
        masks |= _beside(path, stack, volume)
    volume.notes += notes
    return {name: mask for name, mask in masks.items() if mask.any()} or masks


def _beside(path: Path, stack: Stack, volume: SeriesVolume) -> dict[str, np.ndarray]:
    """A NIfTI label in the series' folder: `STRUCTURE.nii.gz`, or any name and a `.json` of value -> structure."""
    meanings = _meanings(path)
    if not meanings:
        volume.notes.append(
            "a NIfTI file beside the series: neither its name nor a .json says which structures it holds"
        )
        return {}
    try:
        label = read(path)
    except VolumeError as error:
        raise DicomError(f"NIfTI label beside the series: {error}") from None
    opened: Any = nib.load(path)
    file_axes = np.asarray(opened.dataobj)
    shape = stack.frames[0].shape[1], stack.frames[0].shape[0], len(stack.frames)
    if stack.notes or file_axes.shape != shape or np.abs(label.affine - stack.affine).max() > 0.01:
        raise DicomError("NIfTI label beside the series: it does not lie on the series' grid")
    outside = sorted(set(np.unique(file_axes).tolist()) - {0, *meanings})
    if outside:
        raise DicomError(f"NIfTI label beside the series: value {outside[0]:g} has no meaning in its .json")
    return {name: file_axes.transpose(2, 1, 0) == value for value, name in meanings.items()}


def _meanings(path: Path) -> dict[int, str]:
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    if (name := structure_of("", stem)) is not None:
        return {1: name}
    try:
        stated = json.loads(path.with_name(f"{stem}.json").read_text())
        named = {int(value): structure_of("", str(name)) for value, name in stated.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return {value: name for value, name in named.items() if name is not None} if None not in named.values() else {}


def _label_map(masks: dict[str, np.ndarray], stack: Stack, volume: SeriesVolume) -> np.ndarray:
    """One value a voxel: where structures overlap the smaller one wins: the part of a whole."""
    if not any(mask.any() for mask in masks.values()):
        raise DicomError("the label is empty")
    ids = {name: vocabulary.here()[name].id for name in masks}
    label = np.zeros(next(iter(masks.values())).shape, smallest_type(max(ids.values())))
    overlapping = np.sum(list(masks.values()), axis=0) > 1
    for name in sorted(masks, key=lambda name: int(masks[name].sum()), reverse=True):
        label[masks[name]] = ids[name]
    if overlapping.any():
        volume.notes.append(f"structures overlap in {int(overlapping.sum())} voxels: the smaller one was taken there")
    return stack.correct(label, 0, 0)


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
