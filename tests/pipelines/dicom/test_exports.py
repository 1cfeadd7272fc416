"""What hospitals export beside plain series: planning images, screens, mosaics, time points, copies, packed files."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.uid import RLELossless

from pipelines.dicom import reading, stored
from pipelines.dicom.frames import frames_of
from pipelines.intake import examination, finding
from pipelines.questions import folder_check
from pipelines.scans.manifest import Row
from pipelines.stages import ingest
from tests.pipelines.dicom import dicom_files as files
from tests.pipelines.dicom.test_labels import masks, segmented
from tests.pipelines.dicom.test_series import brought, volume_of

SCREEN, MICROSCOPY, ENDOSCOPY = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("7", "77.1.6", "77.1.1"))
AXIAL, CORONAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


def rows_of(raw: Path) -> list[Row]:
    """The manifest's rows of all that lies below `raw`, through deidentify and the examination."""
    brought(raw)
    return examination.examine(finding.find_deidentified(raw.parent / "deidentified", raw.parent / "outputs.sqlite"))


def setting(**values: Any) -> Callable[[FileDataset, int], None]:
    """A change of every header of a series. `SOPClassUID` in the meta header, too."""

    def change(dataset: FileDataset, _: int) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID

    return change


def planes(count: int, slices: int = 7, step_mm: float = 10.0) -> Callable[[FileDataset, int], None]:
    """Slices of `count` perpendicular planes in one series, without a word in the header that says so."""

    def change(dataset: FileDataset, k: int) -> None:
        orientation = (AXIAL, CORONAL, SAGITTAL)[k // slices % count]
        dataset.ImageOrientationPatient = list(orientation)
        normal = np.cross(orientation[:3], orientation[3:])
        dataset.ImagePositionPatient = (step_mm * (k % slices) * normal).tolist()

    return change


NOT_SCANS = {
    "a scout": ("CT", 1, setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
    "a localiser by name": ("MR", 1, setting(SeriesDescription="3-plane loc")),
    "a localiser of three planes": ("MR", 21, planes(3)),
    "a localiser of two thick planes": ("MR", 14, planes(2)),
    "bolus tracking": ("CT", 2, setting(SeriesDescription="Smart Prep Series")),
    "a calibration": ("MR", 6, setting(SeriesDescription="ASSET calibration")),
    "a secondary capture": ("CT", 1, setting(SOPClassUID=SCREEN)),
    "a colour image": ("MR", 3, setting(PhotometricInterpretation="RGB")),
    "a mosaic": ("MR", 4, setting(ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])),
    "a projection": ("MR", 6, setting(ImageType=["DERIVED", "PRIMARY", "M"], SeriesDescription="tof3d MIP cor")),
    "a projection by code": ("CT", 6, setting(ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"])),
    "a phase image": ("MR", 6, setting(ImageType=["ORIGINAL", "PRIMARY", "P", "ND"])),
    "a Philips phase map": ("MR", 6, setting(ImageType=["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"])),
    "a phase image of SWI": ("MR", 6, setting(ImageType=["ORIGINAL", "PRIMARY", "P", "SWI"])),
    "a field map": ("MR", 6, setting(SeriesDescription="gre_field_mapping")),
    "a map of perfusion": ("CT", 6, setting(ImageType=["DERIVED", "SECONDARY", "AXIAL"], SeriesDescription="CBV map")),
}


@pytest.mark.parametrize("name", NOT_SCANS)
def test_what_is_no_scan_is_set_aside_in_one_row_and_does_not_count(raw: Path, name: str) -> None:
    modality, slices, change = NOT_SCANS[name]
    files.series(raw / "scan")
    files.series(raw / "other", files.voxels(slices, seed=1), modality, series="t", change=change)
    rows = rows_of(raw)
    ingest._stop_above(rows, 0.0)
    assert [row.modalities for row in rows if not row.quarantined] == [["CT"]]
    assert [row.quarantined[:18] for row in rows if row.quarantined] == ["set aside: series "]


def test_what_is_quarantined_still_counts_and_what_is_set_aside_is_no_scan_of_the_share(raw: Path) -> None:
    files.series(raw / "scan")
    files.series(raw / "short", files.voxels(1), series="t")
    files.series(raw / "scout", files.voxels(1), series="u", change=NOT_SCANS["a scout"][2])
    with pytest.raises(ValueError, match=r"1 of 2 scans are quarantined.*: 1 slice where at least 3 make a volume"):
        ingest._stop_above(rows_of(raw), 0.05)


def test_a_mosaic_names_itself_and_the_remedy(raw: Path) -> None:
    files.series(raw / "s", files.voxels(4), "MR", change=NOT_SCANS["a mosaic"][2])
    (record,) = brought(raw)
    assert record["set_aside"].startswith("a Siemens mosaic, a whole volume in one image; export it as enhanced MR")
    assert not record["volumes"]


def test_the_phase_image_that_ge_states_in_a_private_attribute_alone_is_set_aside(raw: Path) -> None:
    def phase(dataset: FileDataset, _: int) -> None:
        dataset.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", 1)

    files.series(raw / "s", modality="MR", change=phase)
    assert [record["set_aside"] for record in brought(raw)] == ["a phase image"]


def test_a_scout_within_the_series_of_its_scan_is_left_out_and_told(raw: Path) -> None:
    files.series(raw / "s")
    files.series(raw / "t", files.voxels(1, seed=2), change=setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    kept, aside = rows_of(raw)[::-1]
    assert (kept.modalities, kept.quarantined, kept.shape[0]) == (["CT"], "", 6)
    assert "1 image of the series: a localiser" in aside.quarantined


def test_thin_slices_of_three_planes_are_no_localiser(raw: Path) -> None:
    files.series(raw / "s", files.voxels(93), "MR", change=planes(3, 31, 1.0))
    assert [record["quarantined"] for record in brought(raw)] == ["slices of several orientations in one series"]


@pytest.mark.parametrize("class_uid", [MICROSCOPY, ENDOSCOPY])
def test_microscopy_and_endoscopy_are_objects_of_another_kind_and_no_row(raw: Path, class_uid: str) -> None:
    files.series(raw / "s", change=setting(SOPClassUID=class_uid))
    assert brought(raw) == []


# Volumes of one series


def series_of(raw: Path, slices: int, volumes: int, change: Callable[[FileDataset, int, int], Any]) -> None:
    """`change(dataset, slice, volume)`; every image has other pixels."""

    def placed(dataset: FileDataset, n: int) -> None:
        dataset.ImagePositionPatient = [0, 0, 3.0 * (n % slices)]
        change(dataset, n % slices, n // slices)

    files.series(raw / "s", files.voxels(slices * volumes), "MR", change=placed)


def triggered(dataset: FileDataset, k: int, phase: int) -> None:
    """Breath holds of five slices with another heart rate each."""
    dataset.TriggerTime = (30.0 + (k >= 5)) * phase
    del dataset.InstanceNumber


def beating_for_itself(dataset: FileDataset, k: int, phase: int) -> None:
    dataset.TriggerTime = 30.0 * phase + 0.37 * k
    del dataset.InstanceNumber


def echoing(dataset: FileDataset, k: int, volume: int) -> None:
    dataset.EchoTime, dataset.AcquisitionTime = 10 + volume % 2, f"1010{10 + volume + k:02d}.5"
    del dataset.InstanceNumber


def timed(dataset: FileDataset, _: int, volume: int) -> None:
    dataset.AcquisitionTime = f"10{10 + volume}00"
    del dataset.InstanceNumber


def numbered(dataset: FileDataset, k: int, volume: int) -> None:
    dataset.InstanceNumber = 100 * volume + k


def directed(dataset: FileDataset, _: int, volume: int) -> None:
    dataset.DiffusionBValue = 1000.0 if volume else 0.0
    if volume:
        dataset.DiffusionGradientOrientation = [float(axis == volume) for axis in (1, 2, 3)]
    del dataset.InstanceNumber


@pytest.mark.parametrize("change", [triggered, beating_for_itself, timed, numbered, directed])
def test_every_volume_of_a_series_shows_all_its_places(raw: Path, change: Callable[..., None]) -> None:
    series_of(raw, 10, 3, change)
    (record,) = brought(raw)
    assert [volume["shape"] for volume in record["volumes"]] == [[24, 20, 10]] * 3
    assert {volume["quarantined"] for volume in record["volumes"]} == {""}
    if change in (triggered, beating_for_itself):
        assert record["volumes"][0]["notes"] == ["volumes told apart by the order of the trigger at each place"]


def test_a_rank_and_another_attribute_together_tell_volumes_apart(raw: Path) -> None:
    series_of(raw, 5, 4, echoing)
    (record,) = brought(raw)
    assert [volume["shape"] for volume in record["volumes"]] == [[24, 20, 5]] * 4


def test_places_with_unequal_numbers_of_images_make_no_volumes(raw: Path) -> None:
    series_of(raw, 10, 3, triggered)
    next((raw / "s").glob("*.dcm")).unlink()
    (record,) = brought(raw)
    assert record["quarantined"].endswith("2 to 3 of them by place; they make no whole volumes")


def test_time_points_of_too_few_places_are_one_row(raw: Path) -> None:
    series_of(raw, 2, 8, timed)
    (record,) = brought(raw)
    assert record["quarantined"].endswith("2 places where at least 3 make a volume")


def test_volumes_come_in_the_order_of_what_tells_them_apart(raw: Path) -> None:
    def late(dataset: FileDataset, k: int, volume: int) -> None:
        dataset.TemporalPositionIdentifier = (2, 10)[volume]

    series_of(raw, 4, 2, late)
    (record,) = brought(raw)
    first = np.asarray(volume_of(record).dataobj)
    assert np.array_equal(first.transpose(2, 1, 0), files.voxels(8)[:4])


def test_a_file_of_many_volumes_is_decoded_once(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def many(path: Path) -> None:
        dataset = files.enhanced(path, files.voxels(60))
        for n, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 3.0 * (n % 6)]
            group.FrameContentSequence = [files._item(TemporalPositionIndex=n // 6 + 1)]
        dataset.compress(RLELossless)
        files.write(dataset, path)

    many(raw / "many.dcm")
    series = stored.Stored([raw / "many.dcm"], ["called"])
    decoded: list[Dataset] = []
    monkeypatch.setattr(stored, "pixels", lambda dataset: decoded.append(dataset) or reading.pixels(dataset))
    frames = frames_of(reading.header(raw / "many.dcm"), 0)
    for k in range(10):
        series.of(frames[6 * k : 6 * k + 6])
    assert len(decoded) == 1
    (record,) = brought(raw)
    assert [volume["shape"] for volume in record["volumes"]] == [[24, 20, 6]] * 10


# Patients, copies, remarks, packed files


def test_a_patient_whose_issuer_only_some_files_name_has_one_pseudonym(raw: Path) -> None:
    files.series(raw / "s")
    files.series(raw / "t", series="t", change=setting(IssuerOfPatientID="HOSPITAL"))
    files.series(raw / "u", study="b")
    records = brought(raw)
    assert len({record["patient"] for record in records}) == 1
    assert len({record["study_day"] for record in records}) == 1


def test_one_id_of_two_issuers_is_two_patients(raw: Path) -> None:
    for issuer in ("HOSPITAL", "CLINIC"):
        files.series(raw / issuer, study=issuer, change=setting(IssuerOfPatientID=issuer))
    assert len({record["patient"] for record in brought(raw)}) == 2


@pytest.mark.parametrize("labelled", ["s", "t"])
def test_of_two_copies_the_labelled_one_is_kept(raw: Path, labelled: str) -> None:
    for series in "st":
        files.series(raw / series, series=series)
    segmented(raw, masks()[0].astype(np.uint8), ["kidney"], on=labelled)
    kept = [row for row in rows_of(raw) if not row.quarantined]
    assert [row.annotated for row in kept] == [["kidney"]]


def two_frames(dataset: FileDataset, k: int) -> None:
    dataset.FrameOfReferenceUID = files.uid("frame", k // 3)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (setting(ConversionType="DV"), "(ConversionType)"),
        (setting(LossyImageCompression="01"), "lossy compression"),
        (two_frames, "slices name 2 frames of reference"),
    ],
)
def test_what_is_odd_is_kept_with_a_note(raw: Path, change: Any, note: str) -> None:
    files.series(raw / "s", change=change)
    (row,) = rows_of(raw)
    assert not row.quarantined
    assert [told.startswith("dicom: CT: ") and note in told for told in row.notes] == [True]


def test_packed_files_are_named_not_passed_over_in_silence(raw: Path) -> None:
    for path in files.series(raw / "s"):
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    (raw / "all.zip").write_bytes(b"PK")
    unread = folder_check.unread(raw)
    assert len(unread.packed) == 7
    assert unread.unclaimed == []
