"""The confidentiality profile of PS3.15 on whole data sets: what goes, what moves, what stays, with every option."""

from datetime import date
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, keyword_dict

from pipelines.dicom.descriptors import DESCRIPTORS, TECHNICAL, clean
from pipelines.dicom.profile import ProfileOptions, action_of, deidentified, shifted
from pipelines.dicom.reading import DicomError
from pipelines.scans.key import Pseudonyms
from tests.pipelines.dicom import dicom_files as files

KEY = Pseudonyms(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH")
SECRETS = ("uillfeather", "7731942", "Ophelia", "ACC0099123", "Vandersloot", files.BORN, files.STUDIED, "private")


@pytest.fixture
def dataset() -> Dataset:
    made = files.add_pixels(files.image(), files.voxels(1)[0])
    made.ReferencedImageSequence = [files._item(ReferencedSOPInstanceUID=files.uid("other"), PatientName=files.NAME)]
    made.RequestAttributesSequence = [files._item(RequestedProcedureID="7731942")]
    made.OtherPatientIDs, made.PatientAddress = "7731942-B", "1 Quillfeather Lane"
    made.ImageComments = "seen by Dr. Vandersloot, T1 post 9ml"
    made.AcquisitionDateTime = "20190822093211.5"
    return made


def test_nothing_that_identifies_remains_and_the_given_data_set_is_untouched(dataset: Dataset) -> None:
    before = dataset.to_json()
    result = deidentified(dataset, KEY)
    assert dataset.to_json() == before
    text = result.to_json() + str(result.file_meta)
    for secret in (*SECRETS, "093211", "STATION-77", "SN-88812345", dataset.SOPInstanceUID, dataset.StudyInstanceUID):
        assert secret not in text, secret
    assert not [element for element in result.iterall() if element.tag.is_private]
    assert result.pixel_array.tobytes() == dataset.pixel_array.tobytes()
    assert result.PatientIdentityRemoved == "YES"
    assert [item.CodeValue for item in result.DeidentificationMethodCodeSequence] == ["113100", "113107", "113105"]


def test_uids_are_remapped_alike_in_every_file_and_references_still_meet(dataset: Dataset) -> None:
    other = files.image(number=1)
    other.SOPInstanceUID = files.uid("other")
    one, two = deidentified(dataset, KEY), deidentified(other, KEY)
    assert one.StudyInstanceUID == two.StudyInstanceUID != dataset.StudyInstanceUID
    assert one.ReferencedImageSequence[0].ReferencedSOPInstanceUID == two.SOPInstanceUID
    assert one.SOPClassUID == dataset.SOPClassUID
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID


def test_dates_of_one_patient_move_together_and_intervals_stay(dataset: Dataset) -> None:
    later = files.image(number=1)
    later.StudyDate = "20190901"
    one, two = deidentified(dataset, KEY), deidentified(later, KEY)
    days = [date.fromisoformat(f"{v[:4]}-{v[4:6]}-{v[6:]}") for v in (one.StudyDate, two.StudyDate)]
    assert (days[1] - days[0]).days == 10
    assert (date(2019, 8, 22) - days[0]).days == -KEY.shift_days(one.PatientID)
    assert one.AcquisitionDateTime == one.StudyDate
    assert not one.PatientBirthDate
    stranger = files.image(patient="somebody else")
    assert deidentified(stranger, KEY).StudyDate != one.StudyDate


@pytest.mark.parametrize("value", ["", "2019", "not a date", "20191332", "99999999"])
def test_what_is_no_date_is_emptied(value: str) -> None:
    assert shifted(value, -100) == ""


def test_the_device_option_keeps_serial_number_and_station(dataset: Dataset) -> None:
    kept = deidentified(dataset, KEY, ProfileOptions(retain_device=True))
    assert (kept.DeviceSerialNumber, kept.StationName) == ("SN-88812345", "STATION-77")
    assert "113109" in [item.CodeValue for item in kept.DeidentificationMethodCodeSequence]


def test_descriptions_are_cleaned_word_by_word_or_removed(dataset: Dataset) -> None:
    cleaned = deidentified(dataset, KEY)
    assert (cleaned.SeriesDescription, cleaned.ImageComments) == ("ct abdomen for", "t1 post 9ml")
    removed = deidentified(dataset, KEY, ProfileOptions(clean_descriptors=False))
    assert "SeriesDescription" not in removed
    assert "ImageComments" not in removed


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Ax T1 POST 5mm MULTIHANCE", "ax t1 post 5mm multihance"), ("Smith, John 01.02.1970", ""),
        ("MRN 12345678", ""), ("t2_tse_sag_p2_Mueller", "t2 tse sag p2"), ("", ""),
    ],
)  # fmt: skip
def test_cleaning_keeps_known_words_and_small_numbers_only(text: str, kept: str) -> None:
    assert clean(text) == kept


def test_every_attribute_of_the_table_obeys_its_action() -> None:
    """One data set with every attribute of the standard that holds text, a name, an identifier or a date."""
    samples = {
        "LO": "Quillfeather", "SH": "Quillfeather", "ST": "Quillfeather", "LT": "Quillfeather", "UT": "Quillfeather",
        "UC": "Quillfeather", "PN": "Quillfeather^Z", "UI": "1.2.826.77", "DA": "20190822", "DT": "20190822101112",
        "AE": "QUILLFEATHER", "TM": "093211",
    }  # fmt: skip
    dataset = Dataset()
    for tag in keyword_dict.values():
        if tag >> 16 > 7 and dictionary_VR(tag) in samples and not 0x5000 <= tag >> 16 < 0x7000:
            dataset.add_new(tag, dictionary_VR(tag), samples[dictionary_VR(tag)])
    assert len(dataset) > 1000
    result = deidentified(dataset, KEY)
    assert not leaks(result)
    for element in dataset:
        if action_of(element.tag) == "X" and element.VR not in ("DA", "DT") and element.tag not in DESCRIPTORS:
            assert element.tag not in result, element.keyword


def leaks(dataset: Dataset) -> list[str]:
    return [
        element.keyword
        for element in dataset.iterall()
        if element.VR != "SQ"
        and element.tag not in TECHNICAL
        and any(s in str(element.value).lower() for s in ("uillfeather", "1.2.826.77", "20190822"))
    ]


def test_sequences_nested_without_end_are_refused() -> None:
    inner = Dataset()
    for _ in range(40):
        outer = Dataset()
        outer.ReferencedSeriesSequence = [inner]
        inner = outer
    inner.PatientID = "x"
    with pytest.raises(DicomError, match="nest deeper than 16"):
        deidentified(inner, KEY)


def test_a_de_identified_copy_can_be_written_and_read(dataset: Dataset, tmp_path: Path) -> None:
    result = deidentified(dataset, KEY)
    result.save_as(tmp_path / "copy.dcm", enforce_file_format=True)
    assert dcmread(tmp_path / "copy.dcm").PatientID == result.PatientID
    content = (tmp_path / "copy.dcm").read_bytes().lower()
    assert not [secret for secret in SECRETS if secret.lower().encode() in content]
