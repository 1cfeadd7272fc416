"""Labels drawn on a series -> masks on its slices: DICOM SEG (bitmaps, fractions, label maps) and RTSTRUCT contours.

    read(kind, dataset, stack) -> Drawing     masks (n, rows, columns) on the stack's slices as they were drawn on

A structure is found by its code or name in the vocabulary (pipelines/scans/vocabulary.py). One it does not know is left
out, with a note that counts but never quotes it: segment names are typed by people.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset
from pydicom.sr._snomed_dict import mapping as SNOMED

from pipelines.dicom.frames import Frame, frames_of
from pipelines.dicom.polygon import filled
from pipelines.dicom.reading import DAMAGE, DicomError, items, number, numbers, pixels, text, texts
from pipelines.dicom.stack import Stack
from pipelines.scans.label_names import side_of, structure_of
from pipelines.work.wording import counted

ON_GRID_VOXELS = 0.1  # a label's voxel centres may lie this far off the image's
MAX_POINTS = 20_000_000
BACKGROUND = "125040"  # DCM


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
    segments = {
        int(number(item, "SegmentNumber") or 0): meant(item, "SegmentedPropertyTypeCodeSequence", "SegmentLabel")
        for item in items(dataset, "SegmentSequence")
    }
    if not segments:
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
            if segment not in segments:
                raise DicomError(f"frame {frame.index + 1} is of segment {segment}, which is not described")
            if name := segments[segment].structure:
                masks.setdefault(name, np.zeros(shape, dtype=bool))[where] |= inside
    return _drawing(masks, segments.values(), notes)


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
    """An RTSTRUCT's closed planar contours, filled: a voxel is in if its centre is, or lies on an outline; one contour
    inside another is a hole. One of fewer than three points encloses nothing and is left out."""
    observed = {
        int(number(item, "ReferencedROINumber") or 0): item for item in items(dataset, "RTROIObservationsSequence")
    }
    regions = {}
    for item in items(dataset, "StructureSetROISequence"):
        roi = int(number(item, "ROINumber") or 0)
        coded = observed.get(roi, Dataset())
        regions[roi] = meant(coded, "RTROIIdentificationCodeSequence", "", text(item, "ROIName"))
    masks: dict[str, np.ndarray] = {}
    shape = (len(stack.frames), *stack.frames[0].shape)
    crumbs = 0
    for contour_set in items(dataset, "ROIContourSequence"):
        region = regions.get(int(number(contour_set, "ReferencedROINumber") or 0))
        if region is None or not region.structure:
            continue
        inside, outlines = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        for contour in items(contour_set, "ContourSequence"):
            if text(contour, "ContourGeometricType").upper() in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                crumbs += not _fill(contour, stack, inside, outlines)
        mask = masks.setdefault(region.structure, np.zeros(shape, dtype=bool))
        mask |= inside | outlines
    notes = [f"{counted(crumbs, 'contour')} of fewer than 3 points: left out"] if crumbs else []
    return _drawing(masks, regions.values(), notes)


def _fill(contour: Dataset, stack: Stack, inside: np.ndarray, outlines: np.ndarray) -> bool:
    """The contour's inside by exclusive-or, and what its outline runs through, into its slice. False: no area."""
    stated = number(contour, "NumberOfContourPoints")
    count = len(texts(contour, "ContourData")) // 3 if stated is None else int(stated)
    if count < 3:
        return False
    if count > MAX_POINTS:
        raise DicomError(f"a closed contour of {count} points; at most {MAX_POINTS} are read")
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
    within, on = filled(np.stack([rows, columns], axis=1), inside.shape[1:])
    inside[k] ^= within
    outlines[k] |= on
    return True


@dataclass(frozen=True)
class Meant:
    """`structure`: empty for what is none of the vocabulary. `background`: it says so itself."""

    structure: str
    background: bool


def meant(item: Dataset, coded: str, named: str, name: str = "") -> Meant:
    """By the code sequence `coded` and the label `named` of a segment or region; `name` stands for an absent label."""
    name = text(item, named) if named else name
    code = _code(items(item, coded))
    background = code == BACKGROUND or name.strip().lower() == "background"
    region = _code(items(item, "AnatomicRegionSequence"))
    side = side_of(name) or _coded_side(items(item, coded))
    return Meant("" if background else structure_of(code, name, region, side) or "", background)


def _coded_side(found: list[Dataset]) -> str:
    """By a modifier of the code, as in SEG objects."""
    modifiers = [each for item in found for each in items(item, "SegmentedPropertyTypeModifierCodeSequence")]
    return {"7771000": "left", "24028007": "right"}.get(_code(modifiers), "")


def _code(found: list[Dataset]) -> str:
    """The SNOMED CT code, also where it is spelled in the older SNOMED RT, or BACKGROUND; empty if there is none."""
    for item in found:
        scheme, value = text(item, "CodingSchemeDesignator").upper(), text(item, "CodeValue")
        if scheme == "SCT" or (scheme, value) == ("DCM", BACKGROUND):
            return value
        if scheme in ("SRT", "SNM3", "99SDM"):
            return str(SNOMED["SRT"].get(value, ""))
    return ""


def _drawing(masks: dict[str, np.ndarray], found: Iterable[Meant], notes: list[str]) -> Drawing:
    unknown = sum(not each.structure and not each.background for each in found)
    return Drawing([Drawn(name, mask) for name, mask in masks.items()], unknown, notes)


def merged(drawings: list[Drawing]) -> tuple[dict[str, np.ndarray], list[str]]:
    """One mask a structure over several objects, and notes."""
    masks: dict[str, np.ndarray] = {}
    notes = [note for drawing in drawings for note in drawing.notes]
    notes += [
        f"{count} objects drew {name}: all of what they drew was taken; leave one if they are versions"
        for name, count in _drawn_again(drawings).items()
    ]
    for drawing in drawings:
        for drawn in drawing.drawn:
            masks[drawn.structure] = masks[drawn.structure] | drawn.mask if drawn.structure in masks else drawn.mask
    if unknown := sum(drawing.unknown for drawing in drawings):
        are = "is" if unknown == 1 else "are"
        notes.append(f"{counted(unknown, 'segment')} {are} no structure of the vocabulary (structures.yaml): left out")
    return masks, notes


def _drawn_again(drawings: list[Drawing]) -> dict[str, int]:
    """Structure -> how many objects drew it, if several did."""
    drawn = Counter(name for drawing in drawings for name in {each.structure for each in drawing.drawn})
    return {name: count for name, count in sorted(drawn.items()) if count > 1}


def read(kind: str, dataset: Dataset, stack: Stack) -> Drawing:
    """By kind of object (`segmentation`, `structures`). Raises DicomError."""
    try:
        return bitmaps(dataset, stack) if kind == "segmentation" else structure_set(dataset, stack)
    except DicomError:
        raise
    except DAMAGE as error:
        raise DicomError(f"the label cannot be read ({type(error).__name__})") from None
