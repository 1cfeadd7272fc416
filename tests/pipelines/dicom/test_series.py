"""DICOM series become volumes: geometry by the standard, faults corrected with a note or refused with the reason."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from pydicom import FileDataset, dcmread
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from pipelines.dicom import series
from pipelines.intake import listing
from pipelines.params import profiles
from pipelines.scans.key import Pseudonyms
from pipelines.scans.naming import Names
from tests.pipelines.dicom import dicom_files as files

KEY = Pseudonyms(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH")
SETTINGS = profiles.settings("smoke").deidentify


def brought(raw: Path, **changed: Any) -> list[dict[str, Any]]:
    """The records of all series below `raw`, through the stage."""
    out = raw.parent / "deidentified"
    listed = listing.take(raw, raw.parent / "digests.sqlite")
    rows = [{**row, "path": Names(KEY).hidden(row["path"])} for row in listed.to_pylist()]
    settings = SETTINGS.model_copy(update=changed)
    table = type(listed).from_pylist(rows, listing.SCHEMA)
    series.bring(raw, table, out, KEY, settings, raw.parent / "dicom.sqlite")
    return [json.loads(path.read_text()) | {"folder": path.parent} for path in sorted(out.rglob("*.json"))]


def volume_of(record: dict[str, Any], k: int = 0) -> nib.Nifti1Image:
    assert not record["quarantined"]
    assert not record["volumes"][k]["quarantined"]
    return nib.load(record["folder"] / record["volumes"][k]["image"])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


def by_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(k, rows, columns) and the affine to RAS mm, as SimpleITK reads the series."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    read = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(read.GetDirection()).reshape(3, 3) * read.GetSpacing()
    affine[:3, 3] = read.GetOrigin()
    return SimpleITK.GetArrayFromImage(read), np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize(
    "orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (0.9962, 0.0872, 0, -0.0842, 0.9626, -0.2574)]
)
def test_geometry_and_values_are_simpleitks(raw: Path, orientation: tuple[float, ...]) -> None:
    normal = np.cross(orientation[:3], orientation[3:])
    files.series(raw / "x" / "y", orientation=orientation, step_mm=tuple(2.5 * normal))
    volume = volume_of(brought(raw)[0])
    voxels, affine = by_simpleitk(raw / "x" / "y")
    assert np.array_equal(np.asarray(volume.dataobj).transpose(2, 1, 0), voxels)
    assert np.abs(volume.affine - affine).max() < 1e-3
    assert volume.get_data_dtype() == np.int16


def test_series_mixed_in_one_folder_are_told_apart_by_uid(raw: Path) -> None:
    files.series(raw / "mixed", series="one")
    for path in files.series(raw / "other", files.voxels(4), series="two", step_mm=(0, 0, 1.0)):
        shutil.move(path, raw / "mixed" / f"b{path.name}")
    shapes = sorted(record["volumes"][0]["shape"] for record in brought(raw))
    assert shapes == [[24, 20, 4], [24, 20, 6]]


def encoded(syntax: str) -> Callable[[FileDataset, Path], None]:
    def save(dataset: FileDataset, path: Path) -> None:
        dataset.compress(syntax)
        files.write(dataset, path)

    return save


def by_gdcm(syntax: str) -> Callable[[FileDataset, Path], None]:
    def save(dataset: FileDataset, path: Path) -> None:
        import gdcm

        files.write(dataset, path)
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(path))
        assert writer.Write()

    return save


def plain(syntax: str) -> Callable[[FileDataset, Path], None]:
    def save(dataset: FileDataset, path: Path) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        little = syntax != ExplicitVRBigEndian
        if not little:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
            dataset.set_original_encoding(False, False)
        dataset.save_as(
            path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=little, enforce_file_format=True
        )

    return save


def without_meta_header(dataset: FileDataset, path: Path) -> None:
    del dataset.file_meta.TransferSyntaxUID
    dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    content = path.read_bytes()
    start = content.index(b"\x08\x00\x08\x00")
    path.write_bytes(content[start:])


@pytest.mark.parametrize(
    "save",
    [
        encoded(RLELossless), encoded(JPEGLSLossless), by_gdcm("JPEG2000Lossless"), by_gdcm("JPEGLosslessProcess14_1"),
        plain(ImplicitVRLittleEndian), plain(ExplicitVRBigEndian), without_meta_header,
    ],
    ids=["rle", "jpeg-ls", "jpeg-2000", "jpeg-lossless", "implicit", "big-endian", "no-meta-header"],
)  # fmt: skip
def test_every_encoding_gives_the_same_voxels(raw: Path, save: Callable[[FileDataset, Path], None]) -> None:
    stored = files.voxels()
    files.series(raw / "s", stored, save=save)
    volume = volume_of(brought(raw)[0])
    assert np.array_equal(np.asarray(volume.dataobj).transpose(2, 1, 0), stored - 1000)


def test_an_enhanced_image_is_read_with_the_scale_of_each_frame(raw: Path) -> None:
    stored = files.voxels(5)
    files.enhanced(raw / "e.dcm", stored)
    (record,) = brought(raw)
    volume = volume_of(record)
    expected = (stored * np.arange(1.0, 6)[:, None, None])[::-1]  # positions fall with the frame's number
    assert np.array_equal(np.asarray(volume.dataobj).transpose(2, 1, 0), expected)
    assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), (0.7, 0.8, 3))
    assert (record["volumes"][0]["role"], record["volumes"][0]["recognised_by"]) == ("T2", "codes")


def test_two_echoes_in_one_series_become_two_volumes(raw: Path) -> None:
    stored = files.voxels(8)

    def echo(dataset: FileDataset, k: int) -> None:
        dataset.ImagePositionPatient = [0, 0, 2.5 * (k % 4)]
        dataset.EchoTime, dataset.RepetitionTime = (12.0, 90.0)[k // 4], 3000.0
        dataset.ScanningSequence = "SE"

    files.series(
        raw / "s",
        stored,
        "MR",
        change=lambda dataset, k: (echo(dataset, k), dataset.add_new("TemporalPositionIdentifier", "IS", k // 4 + 1)),
    )
    (record,) = brought(raw)
    assert sorted(volume["role"] for volume in record["volumes"]) == ["PD", "T2"]
    assert [volume["shape"] for volume in record["volumes"]] == [[24, 20, 4]] * 2


def test_gantry_tilt_is_sheared_back(raw: Path) -> None:
    """A field linear along the patient's y, on a tilted stack: corrected, it is right at every voxel it covers."""
    tilt, rows, slices, step_mm, row_mm = np.tan(np.radians(15)), 40, 8, 4.0, 0.8
    first_mm = -20 + step_mm * tilt * np.arange(slices)  # patient y of each slice's first row
    stored = np.rint(10 * (100 + first_mm[:, None] + row_mm * np.arange(rows)))
    stored = np.repeat(stored[:, :, None], 30, axis=2).astype(np.int16)
    files.series(raw / "s", stored, "MR", step_mm=(0, step_mm * tilt, step_mm))
    (record,) = brought(raw)
    assert record["volumes"][0]["notes"] == ["gantry tilt of 15.0 degrees: sheared back in the slices' plane"]
    volume = volume_of(record)
    assert np.allclose(volume.affine[:3, 2], (0, 0, step_mm), atol=1e-6)
    y_mm = -(volume.affine[1, 1] * np.arange(volume.shape[1]) + volume.affine[1, 3])  # RAS back to LPS
    for k in range(slices):
        covered = (y_mm > first_mm[k] + row_mm) & (y_mm < first_mm[k] + row_mm * (rows - 2))
        assert covered.sum() >= rows - 4
        assert np.abs(np.asarray(volume.dataobj)[10, covered, k] - 10 * (100 + y_mm[covered])).max() < 2


def test_uneven_slices_are_resampled_evenly_with_a_note(raw: Path) -> None:
    places = np.array([0, 2.4, 5.1, 7.5, 10.0, 12.5])
    stored = np.repeat(np.repeat((100 * places)[:, None, None], 20, 1), 24, 2).astype(np.int16) + files.voxels() // 1000

    def place(dataset: FileDataset, k: int) -> None:
        dataset.ImagePositionPatient = [0, 0, places[k]]

    files.series(raw / "s", stored, change=place)
    (record,) = brought(raw)
    assert record["volumes"][0]["notes"] == ["slices uneven by 8.0% of the step: resampled evenly"]
    line = np.asarray(volume_of(record).dataobj)[3, 3] + 1000
    assert np.abs(line - 100 * np.arange(6) * 2.5).max() <= 2


def test_white_stored_as_the_smallest_value_is_inverted(raw: Path) -> None:
    stored = files.voxels()
    files.series(
        raw / "s", stored, change=lambda dataset, _: setattr(dataset, "PhotometricInterpretation", "MONOCHROME1")
    )
    (record,) = brought(raw)
    assert record["volumes"][0]["notes"] == ["MONOCHROME1: values inverted"]
    back = np.asarray(volume_of(record).dataobj).transpose(2, 1, 0)
    assert np.corrcoef(back.ravel(), stored.ravel())[0, 1] == pytest.approx(-1)


def test_the_same_slice_twice_is_taken_once(raw: Path) -> None:
    paths = files.series(raw / "s")
    shutil.copy(paths[2], raw / "s" / "copy.dcm")
    again = dcmread(paths[3])  # the same pixels under another instance UID
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = files.uid("again")
    files.write(again, raw / "s" / "again.dcm")
    (record,) = brought(raw)
    assert volume_of(record).shape == (24, 20, 6)


def missing(dataset: FileDataset, k: int) -> None:
    dataset.ImagePositionPatient = [0, 0, 2.5 * (k + (k > 2) + (k > 3))]


def far_too_uneven(dataset: FileDataset, k: int) -> None:
    dataset.ImagePositionPatient = [0, 0, (0, 2.5, 5, 6.2, 10, 12.5)[k]]


def mixed_orientation(dataset: FileDataset, k: int) -> None:
    if k > 3:
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def mixed_sizes(dataset: FileDataset, k: int) -> None:
    if k == 4:
        files.add_pixels(dataset, files.voxels(1, 18, 24)[0])


def mixed_spacing(dataset: FileDataset, k: int) -> None:
    if k == 4:
        dataset.PixelSpacing = [0.9, 0.7]


def sideways(dataset: FileDataset, k: int) -> None:
    dataset.ImagePositionPatient = [(0, 3, -3, 2, -2, 0)[k], 0, 2.5 * k]


def two_at_one_place(dataset: FileDataset, k: int) -> None:
    dataset.ImagePositionPatient = [0, 0, 2.5 * min(k, 4)]


def two_patients(dataset: FileDataset, k: int) -> None:
    dataset.PatientID = f"P{k // 3}"


def burned(dataset: FileDataset, _: int) -> None:
    dataset.BurnedInAnnotation = "YES"


def placeless(dataset: FileDataset, _: int) -> None:
    del dataset.ImagePositionPatient


def lookup(dataset: FileDataset, _: int) -> None:
    dataset.ModalityLUTSequence = [files.image()]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (missing, "2 slices are missing, the first after slice 3 of 6 by position"),
        (far_too_uneven, "slices lie 1.2 to 3.8 mm apart, uneven by 52% of the step"),
        (mixed_orientation, "slices of several orientations in one series"),
        (mixed_sizes, "slices of 2 sizes in one series: 18 x 24, 20 x 24"),
        (mixed_spacing, "slices of several pixel spacings in one series"),
        (sideways, "shifted sideways against each other by up to"),
        (two_at_one_place, "several slices at one place with different pixels"),
        (two_patients, "its slices name 2 different patients"),
        (burned, "BurnedInAnnotation is YES: the pixels hold text"),
        (placeless, "ImagePositionPatient is missing"),
        (lookup, "look-up table"),
    ],
)
def test_what_cannot_be_mended_is_refused_with_the_reason(raw: Path, change: Any, reason: str) -> None:
    files.series(raw / "s", change=change)
    (record,) = brought(raw)
    refused = record["quarantined"] or record["volumes"][0]["quarantined"]
    assert reason in refused
    assert not list((raw.parent / "deidentified").rglob("*.nii.gz"))


def test_a_localiser_and_a_report_are_set_aside(raw: Path) -> None:
    def localiser(dataset: FileDataset, _: int) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    files.series(raw / "s", change=localiser)
    report = files.image("CT", series="sr")
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    files.write(report, raw / "s" / "report.dcm")
    (record,) = brought(raw)
    assert record["set_aside"].startswith("a localiser")
    assert not record["quarantined"]


def test_an_unchanged_series_is_not_done_again_and_a_lost_one_is_removed(raw: Path) -> None:
    files.series(raw / "one", series="one")
    files.series(raw / "two", series="two")
    records = brought(raw)
    before = {path: path.stat().st_mtime_ns for path in (raw.parent / "deidentified").rglob("*.nii.gz")}
    files.series(raw / "three", series="three", patient="other")
    assert len(brought(raw)) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    shutil.rmtree(raw / "two")
    assert len(brought(raw)) == 2
    assert len(brought(raw, deface=True)) == 2
    assert len(records) == 2
    now = {path: path.stat().st_mtime_ns for path in before if path.exists()}
    assert all(now[path] != before[path] for path in now)


def test_burned_in_text_in_the_margin_is_suspected(raw: Path) -> None:
    from PIL import Image, ImageDraw, ImageFont

    stored = files.voxels(5, 128, 128)
    canvas = Image.new("L", (128, 128))
    ImageDraw.Draw(canvas).text((4, 4), "QUILLFEATHER Z", fill=255, font=ImageFont.load_default(12))
    stored[:, np.asarray(canvas) > 128] = 2000
    files.series(raw / "s", stored)
    (record,) = brought(raw)
    assert "seems to hold burned-in text" in record["volumes"][0]["quarantined"]


def test_no_path_name_or_uid_of_the_original_is_in_any_output(raw: Path) -> None:
    files.series(raw / "Quillfeather Zebulon" / "HOSP-7731942")
    brought(raw)
    out = raw.parent / "deidentified"
    for path in [*out.rglob("*"), raw.parent / "dicom.sqlite"]:
        content = os.fsencode(path.relative_to(raw.parent)) + (path.read_bytes() if path.is_file() else b"")
        for secret in (b"uillfeather", b"7731942", b"1.2.826", b"20190822", b"Ophelia", b"ACC0099123"):
            assert secret not in content, path
