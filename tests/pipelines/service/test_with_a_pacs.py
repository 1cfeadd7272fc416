"""The service beside a real PACS: a study comes by DICOMweb or DIMSE, and its SEG and SR lie under it there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from tests.pipelines.dicom import dicom_files
from tests.pipelines.service.orthanc import AE_TITLE, Orthanc, free_port, needs_orthanc, running
from tests.pipelines.service.served import Served, make_project, served
from tests.pipelines.serving.test_answering import body

pytestmark = [needs_orthanc, pytest.mark.filterwarnings("ignore::UserWarning")]  # MLflow warns of its own code
OURS = "MEDSEG"


@dataclass
class Hospital:
    pacs: Orthanc
    service: Served


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    root = make_project(tmp_path_factory.mktemp("project"))
    port = free_port()
    with running(tmp_path_factory.mktemp("orthanc")) as pacs:
        pacs.knows("medseg", OURS, port)
        settings = {
            "destinations": {
                "web": {"dicomweb": pacs.dicomweb, "token_file": str(pacs.token_file)},
                "node": {"ae_title": AE_TITLE, "host": "127.0.0.1", "port": pacs.dicom_port},
            },
            "dimse": {"ae_title": OURS, "port": port, "callers": [AE_TITLE], "complete_s": 1, "deliver": "node"},
        }
        with served(root, settings) as service:
            yield Hospital(pacs, service)


def scan(folder: Path, study: str) -> tuple[list[Path], str, str]:
    """Files of a series, its study's UID and its own."""
    files = dicom_files.series(folder, body(), step_mm=(0, 0, 4.0), study=study)
    return files, dicom_files.uid("study", study), dicom_files.uid("series", study, "s")


def check_results(pacs: Orthanc, study: str, scanned: list[Path]) -> None:
    """SEG and SR lie under the study, of the same patient, and refer to the very slices."""
    assert pacs.modalities(study) == ["CT", "SEG", "SR"]
    (known,) = pacs.rest("POST", "/tools/lookup", content=study)
    instances = pacs.rest("GET", f"/studies/{known['ID']}/instances")
    found = {}
    for each in instances:
        content = pacs.file(each["ID"])
        dataset = dcmread(DicomBytesIO(content))
        if dataset.Modality != "CT":
            found[dataset.Modality] = content
            assert dataset.PatientID == dicom_files.PATIENT
            assert "not for clinical use" in dataset.SeriesDescription
    seg = hd.seg.segread(DicomBytesIO(found["SEG"]))
    assert {uid for _, _, uid in seg.get_source_image_uids()} <= {dcmread(file).SOPInstanceUID for file in scanned}
    assert dcmread(DicomBytesIO(found["SR"])).CurrentRequestedProcedureEvidenceSequence


def test_a_study_is_fetched_and_answered_by_dicomweb(hospital: Hospital, tmp_path: Path) -> None:
    files, study, series = scan(tmp_path, "by web")
    hospital.pacs.upload(files)
    query = "/segmentations?to=dicom-seg,sr&deliver=web"
    asked = hospital.service.ask("POST", query, json={"dicomweb": "web", "study": study, "series": series})
    assert asked.status_code == 202, asked.text
    told = hospital.service.job(asked.json()["id"], "delivery", ("delivered", "undelivered"))
    assert told["delivery"] == "delivered", told
    check_results(hospital.pacs, study, files)


def test_a_study_is_received_and_answered_by_dimse(hospital: Hospital, tmp_path: Path) -> None:
    files, study, _ = scan(tmp_path, "by node")
    hospital.pacs.upload(files)
    sent = hospital.pacs.forward(study, "medseg")
    assert sent["FailedInstancesCount"] == 0
    hospital.pacs.wait(study, 3)
    check_results(hospital.pacs, study, files)
    assert (
        hospital.pacs.forward(study, "medseg")["FailedInstancesCount"] == 0
    )  # SEG and SR come along, and are no scans
