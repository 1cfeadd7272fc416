"""The service beside a real PACS: a study comes by DICOMweb or DIMSE, and its SEG and SR lie under it there."""

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from pipelines.work.writing import write_json
from tests.pipelines.dicom import dicom_files
from tests.pipelines.service.orthanc import AE_TITLE, Orthanc, free_port, needs_orthanc, running
from tests.pipelines.service.service_process import ServiceProcess, answered, serving
from tests.pipelines.serving.test_answering import body

pytestmark = [needs_orthanc, pytest.mark.filterwarnings("ignore::UserWarning")]  # MLflow warns of its own code
OURS = "MEDSEG"


@dataclass
class Hospital:
    pacs: Orthanc
    service: ServiceProcess
    port: int

    def push(self, study: str) -> None:
        """By C-STORE, all of it, once the receiver listens."""
        end = time.monotonic() + 240
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port)):
                break
            assert time.monotonic() < end
            time.sleep(0.2)
        assert self.pacs.forward(study, "medseg")["FailedInstancesCount"] == 0


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, service_project: Path) -> Iterator[Hospital]:
    root, port = tmp_path_factory.mktemp("hospital"), free_port()
    shutil.copytree(service_project, root, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns("serve"))
    with running(tmp_path_factory.mktemp("orthanc")) as pacs:
        pacs.knows("medseg", OURS, port)
        destinations = {
            "web": {"dicomweb": pacs.dicomweb, "token_file": str(pacs.token_file)},
            "node": {"ae_title": AE_TITLE, "host": "127.0.0.1", "port": pacs.dicom_port},
        }
        dimse = {"ae_title": OURS, "port": port, "callers": [AE_TITLE], "complete_s": 3, "deliver": "node"}
        write_json(root / "serve.yaml", {"destinations": destinations, "dimse": dimse})
        with serving(root) as service:
            yield Hospital(pacs, service, port)


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
    with hospital.service.client() as client:
        named = {"dicomweb": "web", "study": study, "series": series}
        asked = client.post("/segmentations?to=dicom-seg,sr&deliver=web", json=named)
        assert asked.status_code == 202, asked.text
        assert answered(client, asked.json()["id"])["state"] == "done"
        hospital.pacs.wait(study, 3)
        check_results(hospital.pacs, study, files)
        refused = client.post("/segmentations", json={**named, "series": "1.2.3"})
        assert refused.status_code == 422
        assert "no such study, series or service" in refused.json()["detail"]


def test_a_study_is_received_and_answered_by_dimse(hospital: Hospital, tmp_path: Path) -> None:
    files, study, _ = scan(tmp_path, "by node")
    hospital.pacs.upload(files)
    hospital.push(study)
    hospital.pacs.wait(study, 3)
    check_results(hospital.pacs, study, files)


@pytest.mark.slow
def test_a_study_that_was_taken_outlives_kill_9(hospital: Hospital, tmp_path: Path) -> None:
    """All of it is told to be stored, the service is killed before it is complete: answered, and once."""
    files, study, _ = scan(tmp_path, "by a killed one")
    answers = hospital.service.root / ".medseg/serve/results"
    before = len(list(answers.iterdir()))
    hospital.pacs.upload(files)
    hospital.push(study)
    hospital.service.kill()
    assert hospital.pacs.modalities(study) == ["CT"]
    hospital.service.start()
    hospital.pacs.wait(study, 3)
    check_results(hospital.pacs, study, files)
    hospital.push(study)  # with SEG and SR, which are no scans
    end = time.monotonic() + 900
    while len(list(answers.iterdir())) < before + 2:
        assert time.monotonic() < end
        time.sleep(0.3)
    time.sleep(2)
    assert hospital.pacs.modalities(study) == ["CT", "SEG", "SR"]  # the same objects again
