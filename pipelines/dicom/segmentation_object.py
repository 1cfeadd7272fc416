"""A finding -> a DICOM SEG: bitmaps, one frame a segment and slice, or a label map.

The geometry is that of the slices as they were sorted and measured: nothing is copied from the source's headers, whose
SpacingBetweenSlices some scanners fill with something else (readers then lose or move slices without a word).
"""

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from pydicom.valuerep import DSfloat

from pipelines.dicom.coded import algorithm, concept, modifiers
from pipelines.dicom.finding import MANUFACTURER, MODEL, SERIES_NUMBERS, DicomFinding
from pipelines.dicom.source import SourceSeries
from pipelines.scans.structure import Structure

LABELMAP = "dicom-labelmap"


def segments_of(finding: DicomFinding, kind: str) -> hd.seg.Segmentation:
    """`kind`: dicom-seg or dicom-labelmap. Raises ValueError if nothing was found: none is without a segment."""
    if not finding.structures:
        raise ValueError("nothing was found, and a SEG without a segment does not exist")
    labelmap = kind == LABELMAP
    written = hd.seg.Segmentation(
        source_images=_as_measured(finding.series),
        pixel_array=finding.numbered,
        segmentation_type="LABELMAP" if labelmap else "BINARY",
        segment_descriptions=[_segment(finding, n, each) for n, each in enumerate(finding.structures, 1)],
        series_instance_uid=finding.uid(kind, "series"),
        series_number=SERIES_NUMBERS[kind],
        sop_instance_uid=finding.uid(kind),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL,
        software_versions=finding.maker.software,
        device_serial_number=finding.serial,
        content_label="MEDSEG",
        content_description=finding.description,
        series_description=finding.description,
        transfer_syntax_uid=RLELossless if labelmap else ExplicitVRLittleEndian,
        pixel_measures=_measures(finding.series),
        plane_orientation=_orientation(finding.series),
        plane_positions=[hd.PlanePositionSequence("PATIENT", place.tolist()) for place in finding.series.places_mm],
    )
    for structure, item in zip(finding.structures, written.SegmentSequence[-len(finding.structures) :], strict=True):
        _tell_apart(item, structure)
    return written


def _as_measured(series: SourceSeries) -> list[Dataset]:
    """The source's headers, with what was measured where it is stated: highdicom prefers them to what it is told."""
    headers = series.headers()
    for header in headers:
        for group in header.get("SharedFunctionalGroupsSequence", ()):
            group.PixelMeasuresSequence, group.PlaneOrientationSequence = _measures(series), _orientation(series)
        header.SliceThickness = header.SpacingBetweenSlices = DSfloat(series.stack.step_mm, auto_format=True)
    return headers


def _measures(series: SourceSeries) -> hd.PixelMeasuresSequence:
    step_mm = series.stack.step_mm
    return hd.PixelMeasuresSequence(series.stack.frames[0].spacing_mm, step_mm, step_mm)


def _orientation(series: SourceSeries) -> hd.PlaneOrientationSequence:
    first = series.stack.frames[0]
    return hd.PlaneOrientationSequence("PATIENT", [*first.row.tolist(), *first.column.tolist()])


def _segment(finding: DicomFinding, number: int, structure: Structure) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        number,
        structure.name[:64],
        concept(structure.category),
        concept(structure.type),
        hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm(finding.maker),
        tracking_uid=finding.uid("tracking", structure.name),
        tracking_id=structure.name,
        anatomic_regions=[concept(structure.region)] if structure.region else None,
        display_color=hd.color.CIELabColor.from_rgb(*structure.colour),
    )


def _tell_apart(item: Dataset, structure: Structure) -> None:
    """The side and the modifier belong into the item of the type, where highdicom has no place for them."""
    if told := modifiers(structure):
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = told
