"""One DICOM image file -> its frames, each with place, scale and what tells echoes and time points apart.

A classic file is one frame; an enhanced one (multi-frame CT, MR) holds a volume, or several, and states per frame, or
once for all, what a classic header states. Lengths in mm, in the patient frame of DICOM (LPS: left, posterior, head).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from pipelines.dicom.reading import DAMAGE, DicomError, image_shape, items, number, numbers, soft_number, text, texts

MAX_POSITION_MM = 1e5
Key = float | str


@dataclass(frozen=True)
class Frame:
    """`file`, `index`: which file of the series, which frame in it. `position_mm`: centre of the first voxel, LPS.
    `row`, `column`: directions in which the column and the row index grow. `spacing_mm`: between rows, between columns.
    `slope`, `intercept`: stored value -> value. `kinds`: code strings of what it shows, upper case. `keys`: name ->
    value of what may tell stacks apart. `number`: of the image in its series, if it has one."""

    file: int
    index: int
    position_mm: np.ndarray
    row: np.ndarray
    column: np.ndarray
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]
    slope: float
    intercept: float
    inverted: bool
    kinds: frozenset[str]
    keys: dict[str, Key]
    number: float | None

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.row, self.column)


def frames_of(dataset: Dataset, file: int) -> list[Frame]:
    """The frames of one header. Raises DicomError if place or scale is missing, not finite or impossible."""
    count, rows, columns = image_shape(dataset)
    inverted = _photometric(dataset)
    shared = next(iter(items(dataset, "SharedFunctionalGroupsSequence")), Dataset())
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
    if not len(shared) and not per_frame:
        if count != 1:
            raise DicomError(f"{count} frames without functional groups; their places are not stated")
        return [_frame(dataset, _Classic(dataset), file, 0, (rows, columns), inverted)]
    if len(per_frame) != count:
        raise DicomError(f"{len(per_frame)} per-frame groups for {count} frames; the header lies")
    return [
        _frame(dataset, _Enhanced(shared, own), file, index, (rows, columns), inverted)
        for index, own in enumerate(per_frame)
    ]


class _Classic:
    """Where a classic header states things: at the top."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def group(self, _macro: str) -> Dataset:
        return self._dataset

    def number(self, _index: int) -> float | None:
        return soft_number(self._dataset, "InstanceNumber")


class _Enhanced:
    """Where an enhanced header states things: in a macro of the frame, or else of all frames."""

    def __init__(self, shared: Dataset, own: Dataset) -> None:
        self._places = (own, shared)

    def group(self, macro: str) -> Dataset:
        for place in self._places:
            for item in items(place, macro):
                return item
        return Dataset()

    def number(self, index: int) -> float | None:
        return index + 1.0


def _frame(
    dataset: Dataset, place: "_Classic | _Enhanced", file: int, index: int, shape: tuple[int, int], inverted: bool
) -> Frame:
    position = _due(place.group("PlanePositionSequence"), "ImagePositionPatient", 3)
    orientation = _due(place.group("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    spacing = _due(place.group("PixelMeasuresSequence"), "PixelSpacing", 2)
    if max(map(abs, position)) > MAX_POSITION_MM:
        raise DicomError(f"ImagePositionPatient lies beyond {MAX_POSITION_MM:g} mm")
    if min(spacing) <= 0 or max(spacing) > 100:
        raise DicomError(f"PixelSpacing {spacing[0]:g}, {spacing[1]:g} mm is outside (0, 100]")
    row, column = _directions(orientation)
    slope, intercept = _scale(dataset, place)
    return Frame(
        file, index, np.array(position), row, column, (spacing[0], spacing[1]), shape, slope, intercept, inverted,
        _frame_kinds(dataset, place), dict(_keys(dataset, place)), place.number(index),
    )  # fmt: skip


def _due(group: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    if (value := numbers(group, keyword, count)) is None:
        raise DicomError(f"{keyword} is missing; the image has no place in the patient")
    return value


def _directions(orientation: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if any(abs(length - 1) > 0.01 for length in lengths) or abs(row @ column) > 0.01:
        raise DicomError("ImageOrientationPatient is not two perpendicular unit vectors")
    row = row / lengths[0]
    column = column - (column @ row) * row  # headers round: made exactly perpendicular
    return row, column / np.linalg.norm(column)


def _photometric(dataset: Dataset) -> bool:
    """Is white stored as the smallest value? Raises DicomError for colour."""
    kind = text(dataset, "PhotometricInterpretation").upper()
    if kind not in ("MONOCHROME1", "MONOCHROME2", ""):
        raise DicomError("a colour image: a screen capture, fused view or photograph, not a scan")
    return kind == "MONOCHROME1"


def _scale(dataset: Dataset, place: "_Classic | _Enhanced") -> tuple[float, float]:
    if items(dataset, "ModalityLUTSequence"):
        raise DicomError("values go through a look-up table (ModalityLUTSequence); their scale is not linear")
    group = place.group("PixelValueTransformationSequence")
    slope, intercept = number(group, "RescaleSlope"), number(group, "RescaleIntercept")
    if slope == 0:
        raise DicomError("RescaleSlope is 0")
    return 1.0 if slope is None else slope, intercept or 0.0


def kinds_of(dataset: Dataset) -> frozenset[str]:
    """The code strings in which a header, or a macro of it, says what the image shows."""
    found = (texts(dataset, keyword) for keyword in ("ImageType", "FrameType", *_CODED))
    return frozenset(kind for kinds in found for kind in kinds) | {*_RAW_DATA.get(_ge_raw_type(dataset), ())}


_CODED = ("ComplexImageComponent", "AcquisitionContrast")
_RAW_DATA = {1: ("PHASE",), 2: ("REAL",), 3: ("IMAGINARY",)}


def _ge_raw_type(dataset: Dataset) -> int:
    """0 magnitude, 1 phase, 2 real, 3 imaginary: GE says it in a private attribute alone."""
    try:
        return int(dataset.private_block(0x0043, "GEMS_PARM_01")[0x2F].value)
    except DAMAGE:
        return 0


def _frame_kinds(dataset: Dataset, place: "_Classic | _Enhanced") -> frozenset[str]:
    macros = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
    return frozenset.union(kinds_of(dataset), *(kinds_of(place.group(macro)) for macro in macros))


def _keys(dataset: Dataset, place: "_Classic | _Enhanced") -> Iterator[tuple[str, Key]]:
    """What may tell two images at one place apart, in the order in which it is tried."""
    for name, found in _KEYS.items():
        values = (soft_number(place.group(macro) if macro else dataset, keyword) for macro, keyword in found)
        if (value := next((value for value in values if value is not None), None)) is not None:
            yield name, float(f"{value:.6g}")
    diffusion = place.group("MRDiffusionSequence")
    for item in (*items(diffusion, "DiffusionGradientDirectionSequence"), diffusion):
        if direction := texts(item, "DiffusionGradientOrientation"):
            yield "direction", "/".join(direction)
            break
    kinds = texts(place.group("MRImageFrameTypeSequence"), "FrameType") or texts(dataset, "ImageType")
    yield "type", "/".join(kinds[2:])
    yield "frame of reference", text(dataset, "FrameOfReferenceUID")
    if (acquired := _seconds(dataset, place.group("FrameContentSequence"))) is not None:
        yield "acquisition time", acquired


_KEYS = {
    "echo": (("MREchoSequence", "EffectiveEchoTime"), ("MREchoSequence", "EchoTime")),
    "time": (("FrameContentSequence", "TemporalPositionIndex"), ("", "TemporalPositionIdentifier")),
    "trigger": (("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"), ("", "TriggerTime")),
    "phase": (
        ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
        ("RespiratorySynchronizationSequence", "NominalPercentageOfRespiratoryPhase"),
        ("", "NominalPercentageOfCardiacPhase"),
        ("", "NominalPercentageOfRespiratoryPhase"),
    ),
    "b": (("MRDiffusionSequence", "DiffusionBValue"), ("", "DiffusionBValue")),
    "acquisition": (("FrameContentSequence", "FrameAcquisitionNumber"), ("", "AcquisitionNumber")),
}


def _seconds(dataset: Dataset, content: Dataset) -> float | None:
    """When an image was acquired, in seconds from a day that all images of a series share."""
    stamps = (text(content, "FrameAcquisitionDateTime"), text(dataset, "AcquisitionDateTime"))
    moments = (*(stamp[6:] for stamp in stamps), f"01{text(dataset, 'AcquisitionTime').replace(':', '')}")
    for found in filter(None, (re.match(r"(\d\d)(\d\d)(\d\d)(\d\d(?:\.\d+)?)", moment) for moment in moments)):
        day, hour, minute, second = map(float, found.groups())
        return ((24 * day + hour) * 60 + minute) * 60 + second
    return None
