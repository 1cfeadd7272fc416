"""One DICOM image file -> its frames, each with place, scale and what tells echoes and time points apart.

A classic file is one frame; an enhanced one (multi-frame CT, MR) holds a volume, or several, and states per frame, or
once for all, what a classic header states. Lengths in mm, in the patient frame of DICOM (LPS: left, posterior, head).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from pipelines.dicom.reading import DicomError, image_shape, items, number, numbers, soft_number, text, texts

MAX_POSITION_MM = 1e5
LOCALISER = {"LOCALIZER", "SCOUT", "SURVEY"}


@dataclass(frozen=True)
class Frame:
    """`file`, `index`: which file of the series, which frame in it. `position_mm`: centre of the first voxel, LPS.
    `row`, `column`: directions in which the column and the row index grow. `spacing_mm`: between rows, between columns.
    `slope`, `intercept`: stored value -> value. `keys`: name -> value of what may tell stacks apart."""

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
    localiser: bool
    keys: dict[str, str]

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


class _Enhanced:
    """Where an enhanced header states things: in a macro of the frame, or else of all frames."""

    def __init__(self, shared: Dataset, own: Dataset) -> None:
        self._places = (own, shared)

    def group(self, macro: str) -> Dataset:
        for place in self._places:
            for item in items(place, macro):
                return item
        return Dataset()


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
        _is_localiser(dataset, place), dict(_keys(dataset, place)),
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


def _is_localiser(dataset: Dataset, place: "_Classic | _Enhanced") -> bool:
    kinds = {*texts(dataset, "ImageType")}
    for macro in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence"):
        kinds |= {*texts(place.group(macro), "FrameType")}
    return bool(kinds & LOCALISER)


def _keys(dataset: Dataset, place: "_Classic | _Enhanced") -> Iterator[tuple[str, str]]:
    """What may tell two images at one place apart, in the order in which it is tried."""
    places = {
        "echo": (("MREchoSequence", "EffectiveEchoTime"), ("MREchoSequence", "EchoTime")),
        "time": (("FrameContentSequence", "TemporalPositionIndex"), ("", "TemporalPositionIdentifier")),
        "trigger": (("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"), ("", "TriggerTime")),
        "b": (("MRDiffusionSequence", "DiffusionBValue"), ("", "DiffusionBValue")),
        "acquisition": (("FrameContentSequence", "FrameAcquisitionNumber"), ("", "AcquisitionNumber")),
    }
    for name, found in places.items():
        values = (soft_number(place.group(macro) if macro else dataset, keyword) for macro, keyword in found)
        if (value := next((value for value in values if value is not None), None)) is not None:
            yield name, f"{value:g}"
    kinds = texts(place.group("MRImageFrameTypeSequence"), "FrameType") or texts(dataset, "ImageType")
    yield "type", "/".join(kinds[2:])
