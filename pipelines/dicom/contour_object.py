"""A finding -> an RTSTRUCT: the outlines of every structure, slice by slice, as closed planar contours.

An outline runs half-way between voxel centres inside and outside, so whoever fills it by exclusive-or (a hole is a
contour inside another) has the same voxels again.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import contourpy
import numpy as np
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from pipelines.dicom.coded import SIDES, concept, modifiers
from pipelines.dicom.finding import MANUFACTURER, MODEL, SERIES_NUMBERS, DicomFinding
from pipelines.dicom.reading import text
from pipelines.scans.structure import Structure

_OF_THE_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def contour_set(finding: DicomFinding) -> FileDataset:
    """Raises ValueError if nothing was found: an object without a region is none."""
    if not finding.structures:
        raise ValueError("nothing was found, and an RTSTRUCT without a region does not exist")
    headers = finding.series.headers()
    written = _empty(finding, headers[0])
    written.ReferencedFrameOfReferenceSequence = [_reference(headers)]
    place = text(headers[0], "FrameOfReferenceUID")
    written.StructureSetROISequence = [
        _item(ROINumber=n, ReferencedFrameOfReferenceUID=place, ROIName=each.name[:64],
              ROIGenerationAlgorithm="AUTOMATIC", ROIGenerationDescription=finding.maker.software)
        for n, each in enumerate(finding.structures, 1)
    ]  # fmt: skip
    images = _images(finding, headers)
    written.ROIContourSequence = [
        _item(ReferencedROINumber=n, ROIDisplayColor=list(each.colour),
              ContourSequence=list(_contours(finding, finding.slices == each.id, images)))
        for n, each in enumerate(finding.structures, 1)
    ]  # fmt: skip
    written.RTROIObservationsSequence = [_observation(n, each) for n, each in enumerate(finding.structures, 1)]
    return written


def _empty(finding: DicomFinding, source: Dataset) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, finding.uid("rtstruct")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    written = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    written.SOPClassUID, written.SOPInstanceUID = RTStructureSetStorage, finding.uid("rtstruct")
    for keyword in _OF_THE_STUDY:
        setattr(written, keyword, source.get(keyword, ""))
    if "SpecificCharacterSet" in source:
        written.SpecificCharacterSet = source.SpecificCharacterSet
    now = datetime.now(UTC)
    written.Modality, written.SeriesInstanceUID = "RTSTRUCT", finding.uid("rtstruct", "series")
    written.SeriesNumber, written.InstanceNumber, written.OperatorsName = SERIES_NUMBERS["rtstruct"], 1, ""
    written.SeriesDescription, written.SoftwareVersions = finding.description, finding.maker.software
    written.Manufacturer, written.ManufacturerModelName = MANUFACTURER, MODEL
    written.DeviceSerialNumber = finding.serial
    written.StructureSetLabel, written.StructureSetDescription = "MEDSEG", finding.description
    written.StructureSetDate, written.StructureSetTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    written.FrameOfReferenceUID = text(source, "FrameOfReferenceUID")
    written.PositionReferenceIndicator, written.ApprovalStatus = "", "UNAPPROVED"
    return written


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _image(header: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)


def _reference(headers: list[Dataset]) -> Dataset:
    first = headers[0]
    images = [_image(header) for header in headers]
    series = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # retired, and the standard still wants it here
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=text(first, "FrameOfReferenceUID"), RTReferencedStudySequence=[study])


def _images(finding: DicomFinding, headers: list[Dataset]) -> list[Dataset | None]:
    """Of every slice the image it lies on; none where slices were resampled and lie between images."""
    stack = finding.series.stack
    if stack.uneven:
        return [None] * len(stack.frames)
    of_file = dict(zip(dict.fromkeys(frame.file for frame in stack.frames), headers, strict=True))
    several = len({frame.file for frame in stack.frames}) < len(stack.frames)
    images: list[Dataset | None] = []
    for frame in stack.frames:
        image = _image(of_file[frame.file])
        images.append(image)
        if several:
            image.ReferencedFrameNumber = frame.index + 1
    return images


def _contours(finding: DicomFinding, mask: np.ndarray, images: list[Dataset | None]) -> Iterator[Dataset]:
    first, places = finding.series.stack.frames[0], finding.series.places_mm
    row_mm, column_mm = first.spacing_mm
    for k in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        padded = np.pad(mask[k], 1).astype(np.float32)
        for line in contourpy.contour_generator(z=padded).lines(0.5):
            columns, rows = np.asarray(line)[:-1].T - 1  # the last point repeats the first
            points = places[k] + np.outer(columns * column_mm, first.row) + np.outer(rows * row_mm, first.column)
            contour = _item(
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=[f"{value:.4f}" for value in points.ravel()],
            )
            if (image := images[k]) is not None:
                contour.ContourImageSequence = [image]
            yield contour


def _observation(number: int, structure: Structure) -> Dataset:
    coded = _code(concept(structure.type))
    if told := modifiers(structure):
        coded.SegmentedPropertyTypeModifierCodeSequence = [_code(each) for each in told]
    observation = _item(
        ObservationNumber=number, ReferencedROINumber=number, RTROIIdentificationCodeSequence=[coded],
        RTROIInterpretedType="ORGAN" if structure.category.value == "123037004" else "", ROIInterpreter="",
    )  # fmt: skip
    if structure.region:
        region = _code(concept(structure.region))
        if structure.laterality:
            region.AnatomicRegionModifierSequence = [_code(concept(SIDES[structure.laterality]))]
        observation.AnatomicRegionSequence = [region]
    return observation


def _code(concepted: Dataset) -> Dataset:
    return _item(
        CodeValue=concepted.CodeValue,
        CodingSchemeDesignator=concepted.CodingSchemeDesignator,
        CodeMeaning=concepted.CodeMeaning,
    )
