"""Small DICOM objects for tests, as scanners write them: classic series, enhanced images, contours. No real name."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

NAME, PATIENT, ACCESSION, INSTITUTION = "Quillfeather^Zebulon", "HOSP-7731942", "ACC0099123", "Saint Ophelia Infirmary"
BORN, STUDIED = "19510314", "20190822"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"


def uid(*parts: object) -> str:
    """The same for the same parts."""
    return str(generate_uid(entropy_srcs=[str(part) for part in parts]))


def image(
    modality: str = "CT", patient: str = PATIENT, study: str = "a", series: str = "s", number: int = 0
) -> FileDataset:
    """A header without place and pixels, with everything that identifies."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid(study, series, number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study", study), uid("series", study, series)
    dataset.FrameOfReferenceUID = uid("place", study)
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = NAME, patient, BORN, "F"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = STUDIED
    dataset.StudyTime, dataset.StudyID, dataset.SeriesNumber = "093211", "STU77123", 4
    dataset.AccessionNumber, dataset.InstitutionName = ACCESSION, INSTITUTION
    dataset.ReferringPhysicianName, dataset.StationName = "Vandersloot^Ignatius", "STATION-77"
    dataset.Modality, dataset.Manufacturer, dataset.DeviceSerialNumber = modality, "ACME", "SN-88812345"
    dataset.SeriesDescription = f"{modality} abdomen for Quillfeather"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.InstanceNumber = number + 1
    block = dataset.private_block(0x0029, "ACME HEADER", create=True)
    block.add_new(0x10, "LO", "Quillfeather private note")
    return dataset


def add_pixels(dataset: Dataset, stored: np.ndarray) -> Dataset:
    """(rows, columns) or (frames, rows, columns), int16 or uint16 or uint8."""
    if stored.ndim == 3:
        dataset.NumberOfFrames = len(stored)
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * stored.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW" if stored.itemsize == 2 else "OB"
    return dataset


def voxels(slices: int = 6, rows: int = 20, columns: int = 24, seed: int = 0) -> np.ndarray:
    """Smooth CT-like values (slices, rows, columns), int16: no two voxel planes alike."""
    k, r, c = np.meshgrid(np.arange(slices), np.arange(rows), np.arange(columns), indexing="ij")
    noise = np.random.default_rng(seed).normal(0, 3, k.shape)
    return np.asarray(100 * np.sin(r / 4) + 80 * np.cos(c / 5) + 20 * k + noise).round().astype(np.int16)


def series(
    folder: Path,
    stored: np.ndarray | None = None,
    modality: str = "CT",
    step_mm: Sequence[float] = (0.0, 0.0, 2.5),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    origin_mm: Sequence[float] = (-10.0, -20.0, 30.0),
    change: Callable[[FileDataset, int], Any] | None = None,
    save: Callable[[FileDataset, Path], Any] | None = None,
    **who: Any,
) -> list[Path]:
    """One classic series, a file a slice, named in another order than by position. `change(dataset, k)`: last word."""
    stored = voxels() if stored is None else stored
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for k, plane in enumerate(stored):
        dataset = image(modality, number=k, **who)
        dataset.ImageOrientationPatient = list(orientation)
        dataset.ImagePositionPatient = [round(float(o + k * s), 6) for o, s in zip(origin_mm, step_mm, strict=True)]
        dataset.PixelSpacing, dataset.SliceThickness = [0.8, 0.7], 2.5
        add_pixels(dataset, plane)
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1000 if modality == "CT" else 0
        if change:
            change(dataset, k)
        path = folder / f"{(7 * k + 3) % 101:03d}.dcm"
        (save or write)(dataset, path)
        written.append(path)
    return written


def write(dataset: FileDataset, path: Path) -> None:
    dataset.save_as(path, enforce_file_format=True)


def enhanced(path: Path, stored: np.ndarray, **who: Any) -> FileDataset:
    """One enhanced MR with its volume in frames, T2-like; slices 3 mm apart; slope of frame k is 1 + k."""
    dataset = image("MR", **who)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    add_pixels(dataset, stored)
    shared = Dataset()
    shared.PixelMeasuresSequence = [_item(PixelSpacing=[0.8, 0.7], SliceThickness=3.0)]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    shared.MRTimingAndRelatedParametersSequence = [_item(RepetitionTime=4200.0, FlipAngle=90.0)]
    shared.MREchoSequence = [_item(EffectiveEchoTime=95.0)]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.EchoPulseSequence = "SPIN"
    groups = []
    for k in range(len(stored)):
        group = Dataset()
        group.PlanePositionSequence = [_item(ImagePositionPatient=[1.0, 2.0, 3.0 * (len(stored) - k)])]
        group.PixelValueTransformationSequence = [_item(RescaleSlope=1 + k, RescaleIntercept=0)]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    path.parent.mkdir(parents=True, exist_ok=True)
    write(dataset, path)
    return dataset


def structure_set(path: Path, drawn_on: FileDataset, contours: dict[str, list[np.ndarray]]) -> None:
    """An RTSTRUCT: name of the region -> closed contours, (points, 3) in mm."""
    dataset = image("CT", series="rt", study="a")
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = RTSTRUCT
    dataset.Modality = "RTSTRUCT"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = drawn_on.StudyInstanceUID, uid("rt")
    listed = _item(SeriesInstanceUID=drawn_on.SeriesInstanceUID)
    study = _item(RTReferencedSeriesSequence=[listed], ReferencedSOPInstanceUID=drawn_on.StudyInstanceUID)
    place = _item(FrameOfReferenceUID=drawn_on.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    dataset.ReferencedFrameOfReferenceSequence = [place]
    dataset.StructureSetROISequence = [_item(ROINumber=n, ROIName=name) for n, name in enumerate(contours, 1)]
    dataset.ROIContourSequence = [
        _item(
            ReferencedROINumber=n,
            ContourSequence=[
                _item(
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourData=[f"{x:.4f}" for x in points.ravel()],
                )
                for points in lines
            ],
        )
        for n, lines in enumerate(contours.values(), 1)
    ]
    write(dataset, path)


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
