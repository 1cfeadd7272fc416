"""Labels drawn on a series -> masks on its slices: DICOM SEG (bitmaps, fractions, label maps) and RTSTRUCT contours.

    read(kind, dataset, stack) -> Drawing     masks (n, rows, columns) on the stack's slices as they were drawn on

A structure is found by its code or name in the vocabulary (pipelines/scans/vocabulary.py). One it does not know is left
out, with a note that counts but never quotes it: segment names are typed by people.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.path import Path as Polygon
from pydicom import Dataset

from pipelines.dicom.frames import Frame, frames_of
from pipelines.dicom.reading import DAMAGE, DicomError, items, number, numbers, pixels, text
from pipelines.dicom.stack import Stack
from pipelines.scans.label_names import structure_of

ON_GRID_VOXELS = 0.1  # a label's voxel centres may lie this far off the image's
MAX_POINTS = 20_000_000


@dataclass(frozen=True)
class Drawn:
    """`structure`: of the vocabulary. `mask`: bool, (n, rows, columns)."""

    structure: str
    mask: np.ndarray


@dataclass(frozen=True)
class Drawing:
    """All that one object drew; `unknown`: how many of its segments are no structure of the vocabulary."""

    drawn: list[Drawn]
    unknown: int
    notes: list[str]


def bitmaps(dataset: Dataset, stack: Stack) -> Drawing:
    """A DICOM SEG, overlapping segments included. Raises DicomError if it cannot be laid on the stack."""
    called = {int(number(item, "SegmentNumber") or 0): _called(item) for item in items(dataset, "SegmentSequence")}
    names = {segment: structure_of(*called[segment]) for segment in called}
    if not names:
        raise DicomError("the segmentation describes no segment")
    stored = pixels(dataset)
    kind = text(dataset, "SegmentationType").upper()
    notes = []
    if kind == "FRACTIONAL":
        stored = stored >= 0.5 * (number(dataset, "MaximumFractionalValue") or 255.0)
        notes.append("fractions of a segment: half and more is inside")
    masks: dict[str, np.ndarray] = {}
    shared = items(dataset, "SharedFunctionalGroupsSequence")
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
    shape = (len(stack.frames), *stack.frames[0].shape)
    for frame, image in zip(frames_of(dataset, 0), stored, strict=True):
        where, part = _placed(frame, image, stack)
        for segment, inside in _segments_in(kind, [per_frame[frame.index], *shared], part):
            if segment not in names:
                raise DicomError(f"frame {frame.index + 1} is of segment {segment}, which is not described")
            if (name := names[segment]) is not None:
                masks.setdefault(name, np.zeros(shape, dtype=bool))[where] |= inside
    unknown = sum(name is None for name in names.values())
    return Drawing([Drawn(name, mask) for name, mask in masks.items()], unknown, notes)


def _segments_in(kind: str, groups: list[Dataset], image: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    if kind == "LABELMAP":
        for value in np.unique(image[image > 0]):
            yield int(value), image == value
        return
    stated = [item for group in groups for item in items(group, "SegmentIdentificationSequence")]
    named = [number(item, "ReferencedSegmentNumber") for item in stated]
    if not named or named[0] is None:
        raise DicomError("a frame does not say of which segment it is")
    yield int(named[0]), image > 0


def _placed(frame: Frame, image: np.ndarray, stack: Stack) -> tuple[tuple[int, slice, slice], np.ndarray]:
    """Where a label frame lies on the stack's slices: (slice, rows, columns), and the part of it that is inside."""
    first = stack.frames[0]
    if max(np.abs(frame.row - first.row).max(), np.abs(frame.column - first.column).max()) > 1e-3:
        raise DicomError("the label's slices are turned against the image's")
    if max(abs(one / other - 1) for one, other in zip(frame.spacing_mm, first.spacing_mm, strict=True)) > 1e-3:
        raise DicomError("the label's pixel spacing is not the image's")
    k = nearest_slice(float(frame.position_mm @ first.normal), stack)
    offset_mm = frame.position_mm - stack.frames[k].position_mm
    exact = np.array([offset_mm @ first.column / first.spacing_mm[0], offset_mm @ first.row / first.spacing_mm[1]])
    row, column = np.rint(exact).astype(int)
    if np.abs(exact - (row, column)).max() > ON_GRID_VOXELS:
        raise DicomError("the label's voxels lie between the image's")
    (rows, columns), (own_rows, own_columns) = first.shape, image.shape
    top, left = max(0, row), max(0, column)
    bottom, right = min(rows, row + own_rows), min(columns, column + own_columns)
    part = image[top - row : bottom - row, left - column : right - column]
    return (k, slice(top, max(top, bottom)), slice(left, max(left, right))), part


def nearest_slice(position_mm: float, stack: Stack) -> int:
    """The slice at a position along the normal. Raises DicomError if it is more than half a step from any."""
    k = int(np.abs(stack.positions_mm - position_mm).argmin())
    if abs(stack.positions_mm[k] - position_mm) > 0.5 * stack.step_mm:
        raise DicomError("a label lies outside the image's slices")
    return k


def structure_set(dataset: Dataset, stack: Stack) -> Drawing:
    """An RTSTRUCT's closed planar contours, filled: a voxel is in if its centre is; one inside another is a hole."""
    codes = {
        int(number(item, "ReferencedROINumber") or 0): _code(items(item, "RTROIIdentificationCodeSequence"))
        for item in items(dataset, "RTROIObservationsSequence")
    }
    called = {}
    for item in items(dataset, "StructureSetROISequence"):
        roi = int(number(item, "ROINumber") or 0)
        called[roi] = (codes.get(roi, ""), text(item, "ROIName"))
    names = {roi: structure_of(*called[roi]) for roi in called}
    masks: dict[str, np.ndarray] = {}
    shape = (len(stack.frames), *stack.frames[0].shape)
    for contour_set in items(dataset, "ROIContourSequence"):
        name = names.get(int(number(contour_set, "ReferencedROINumber") or 0))
        if name is None:
            continue
        mask = masks.setdefault(name, np.zeros(shape, dtype=bool))
        drawn = np.zeros(shape, dtype=bool)
        for contour in items(contour_set, "ContourSequence"):
            if text(contour, "ContourGeometricType").upper() in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                _fill(contour, stack, drawn)
        mask |= drawn
    unknown = sum(name is None for name in names.values())
    return Drawing([Drawn(name, mask) for name, mask in masks.items()], unknown, [])


def _fill(contour: Dataset, stack: Stack, drawn: np.ndarray) -> None:
    """Exclusive-or of the contour's inside into its slice of `drawn`."""
    count = int(number(contour, "NumberOfContourPoints") or 0)
    if not 3 <= count <= MAX_POINTS:
        raise DicomError(f"a closed contour of {count} points")
    flat = numbers(contour, "ContourData", 3 * count)
    if flat is None:
        raise DicomError("a contour without points")
    points = np.array(flat).reshape(-1, 3)
    first = stack.frames[0]
    k = nearest_slice(float(points.mean(axis=0) @ first.normal), stack)
    relative = points - stack.frames[k].position_mm
    if np.ptp(points @ first.normal) > 0.5 * stack.step_mm:
        raise DicomError("a contour does not lie in the plane of the image's slices")
    rows, columns = relative @ first.column / first.spacing_mm[0], relative @ first.row / first.spacing_mm[1]
    top, left = max(0, int(np.floor(rows.min()))), max(0, int(np.floor(columns.min())))
    bottom = min(drawn.shape[1], int(np.ceil(rows.max())) + 1)
    right = min(drawn.shape[2], int(np.ceil(columns.max())) + 1)
    if bottom <= top or right <= left:
        return
    grid = np.stack(np.meshgrid(np.arange(left, right), np.arange(top, bottom)), axis=-1).reshape(-1, 2)
    inside = Polygon(np.stack([columns, rows], axis=1)).contains_points(grid)
    drawn[k, top:bottom, left:right] ^= inside.reshape(bottom - top, right - left)


def _called(item: Dataset) -> tuple[str, str]:
    """Code and name of a segment."""
    return _code(items(item, "SegmentedPropertyTypeCodeSequence")), text(item, "SegmentLabel")


def _code(found: list[Dataset]) -> str:
    """The SNOMED CT code, or nothing."""
    for item in found:
        if text(item, "CodingSchemeDesignator").upper() == "SCT":
            return text(item, "CodeValue")
    return ""


def merged(drawings: list[Drawing]) -> tuple[dict[str, np.ndarray], list[str]]:
    """One mask a structure over several objects, and notes."""
    masks: dict[str, np.ndarray] = {}
    notes = [note for drawing in drawings for note in drawing.notes]
    for drawing in drawings:
        for drawn in drawing.drawn:
            masks[drawn.structure] = masks[drawn.structure] | drawn.mask if drawn.structure in masks else drawn.mask
    if unknown := sum(drawing.unknown for drawing in drawings):
        notes.append(f"{unknown} segments are no structure of the vocabulary (structures.yaml) and were left out")
    return masks, notes


def read(kind: str, dataset: Dataset, stack: Stack) -> Drawing:
    """By kind of object (`segmentation`, `structures`). Raises DicomError."""
    try:
        return bitmaps(dataset, stack) if kind == "segmentation" else structure_set(dataset, stack)
    except DicomError:
        raise
    except DAMAGE as error:
        raise DicomError(f"the label cannot be read ({type(error).__name__})") from None
