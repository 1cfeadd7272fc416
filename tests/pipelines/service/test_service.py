"""The service as a whole, over HTTP, with a worker and its network: what is sent is answered, and nothing else is."""

import gzip
import io
import json
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from pipelines.release.registry import NOT_RELEASED
from tests.flows.conftest import eventually
from tests.pipelines.dicom import dicom_files
from tests.pipelines.service.service_process import ServiceProcess, answered, scan

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns of its own code


def test_a_scan_is_answered(service: ServiceProcess, tmp_path: Path) -> None:
    sent = scan(tmp_path / "Quillfeather.nii.gz")
    with service.client("ward-3") as client:
        asked = client.post("/segmentations?to=nifti,json,png", content=sent.read_bytes())
        assert asked.status_code == 202
        assert asked.headers["location"] == f"/segmentations/{asked.json()['id']}"
        told = answered(client, asked.json()["id"])
        assert (told["state"], told["progress"], told["reason"]) == ("done", 1.0, "")
        assert told["version"]["mark"] == NOT_RELEASED
        assert {each["kind"] for each in told["results"]} >= {"nifti", "json", "png"}
        files = {each["kind"]: client.get(each["href"]).raise_for_status() for each in told["results"]}
        label = nib.Nifti1Image.from_bytes(gzip.decompress(files["nifti"].content))
        assert label.shape == nib.load(sent).shape
        assert NOT_RELEASED in files["json"].json()["made_by"]["mark"]
        assert client.get("/segmentations").json()[0]["id"] == told["id"]
        assert client.delete(f"/segmentations/{told['id']}").status_code == 409
        figures = client.get("/metrics").text
    assert 'medseg_http_requests_total{method="POST",route="/segmentations",status="202"}' in figures
    assert not (service.root / ".medseg/serve/inputs" / told["id"]).exists()
    with service.client("other") as client:
        for path in ("", "/results/nifti"):
            assert client.get(f"/segmentations/{told['id']}{path}").status_code == 404
        assert client.delete(f"/segmentations/{told['id']}").status_code == 404
    lines = [json.loads(line) for line in (service.root / ".medseg/audit/log.jsonl").read_text().splitlines()]
    (line,) = [line["facts"] for line in lines if line["facts"].get("job") == told["id"]]
    assert line["sender"] == "ward-3"
    assert line["outputs"] == [each["sha256"] for each in told["results"]]
    assert "Quillfeather" not in (service.root / "serve.log").read_text()


def test_files_of_a_form_are_scans_by_name_and_a_key_is_one_job(service: ServiceProcess, tmp_path: Path) -> None:
    content = scan(tmp_path / "a.nii.gz").read_bytes()
    files = [("file", (name, content)) for name in ("a/../Smith.nii.gz", "Jones.nii.gz")]
    with service.client() as client:
        asked = [client.post("/segmentations", files=files, headers={"Idempotency-Key": "one"}) for _ in range(2)]
        assert [each.status_code for each in asked] == [202, 202]
        assert asked[0].json()["id"] == asked[1].json()["id"]
        told = answered(client, asked[0].json()["id"])
        assert [each["scan"] for each in told["results"] if each["kind"] == "nifti"] == ["scan-1", "scan-2"]
        several = client.get(f"/segmentations/{told['id']}/results/nifti")
        assert (several.status_code, "name one, as in ?scan=scan-1" in several.text) == (422, True)


def test_dicom_in_dicom_out_and_one_bad_series_beside(service: ServiceProcess, tmp_path: Path) -> None:
    body = np.random.default_rng(0).integers(0, 2000, (12, 24, 24)).astype(np.int16)
    good = dicom_files.series(tmp_path / "good", body, step_mm=(0, 0, 4.0))
    bad = dicom_files.series(tmp_path / "bad", body, step_mm=(0, 0, 4.0), series="t")[1:5:2]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, path in enumerate([*good, *bad]):
            archive.write(path, f"study/{number}.dcm")
    with service.client() as client:
        asked = client.post("/segmentations?to=dicom-seg,sr,json", content=packed.getvalue())
        told = answered(client, asked.raise_for_status().json()["id"])
        assert told["state"] == "done", told
        (href,) = [each["href"] for each in told["results"] if each["kind"] == "dicom-seg"]
        seg = dcmread(io.BytesIO(client.get(href).content))
    assert (seg.Modality, str(seg.PatientID)) == ("SEG", dicom_files.PATIENT)
    assert "series" in told["left_out"][0][1]
    assert dicom_files.PATIENT not in json.dumps(told)


def test_what_is_no_scan_is_refused_with_the_reason(service: ServiceProcess, tmp_path: Path) -> None:
    with service.client() as client:
        flat = scan(tmp_path / "a.nii.gz")
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), flat)
        cut = scan(tmp_path / "b.nii.gz").read_bytes()[:-200]
        for content in (flat.read_bytes(), cut):
            told = answered(client, client.post("/segmentations", content=content).raise_for_status().json()["id"])
            assert told["state"] == "refused"
            assert told["reason"]
            assert str(service.root) not in told["reason"]
        asked = client.post("/segmentations?to=dicom-seg", content=scan(tmp_path / "c.nii.gz").read_bytes())
        assert "needs a DICOM series" in answered(client, asked.json()["id"])["reason"]


def test_cancelled_while_it_waits_and_while_it_runs(service: ServiceProcess, tmp_path: Path) -> None:
    long, short = scan(tmp_path / "a.nii.gz", size=200).read_bytes(), scan(tmp_path / "b.nii.gz").read_bytes()
    with service.client() as client:
        running, waiting, last = (
            client.post("/segmentations", content=content).json()["id"] for content in (long, short, short)
        )
        while client.get(f"/segmentations/{running}").json()["state"] == "queued":
            time.sleep(0.1)
        for job_id in (waiting, running):
            assert client.delete(f"/segmentations/{job_id}").raise_for_status().json()["state"] == "cancelled"
        assert answered(client, last)["state"] == "done"
        assert [answered(client, each)["state"] for each in (running, waiting)] == ["cancelled", "cancelled"]


def test_the_queue_is_bounded(service: ServiceProcess, tmp_path: Path) -> None:
    content = scan(tmp_path / "a.nii.gz", size=48).read_bytes()
    service.token("narrow", limit=2)
    with service.client("narrow") as client:
        answers = [client.post("/segmentations", content=content) for _ in range(4)]
        refused = [each for each in answers if each.status_code == 429]
        assert refused
        assert int(refused[0].headers["retry-after"]) > 0
        assert "of yours are waiting, at most 2 may" in refused[0].json()["detail"]
        for each in answers:
            if each.status_code == 202:
                assert answered(client, each.json()["id"])["state"] == "done"


def load(service: ServiceProcess, clients: int, each: int, folder: Path) -> None:
    """Jobs from many at once, the service killed and started again in the middle: each that was accepted is answered
    once, with its own scan's label map."""
    sent = [scan(folder / f"{number}.nii.gz", number, 10 + number % 3).read_bytes() for number in range(6)]
    accepted: dict[str, int] = {}
    names = [f"load-{clients}-{number}" for number in range(clients)]
    for name in names:
        service.token(name)

    def ask(name: str) -> None:
        for number in range(each):
            while True:  # as a client does whom nobody answered: again, under the same key
                try:
                    with service.client(name) as client:
                        headers = {"Idempotency-Key": f"{name}-{number}"}
                        content = sent[number % len(sent)]
                        asked = client.post("/segmentations?to=nifti,json", content=content, headers=headers)
                        accepted[asked.raise_for_status().json()["id"]] = number % len(sent)
                    break
                except httpx.TransportError:
                    time.sleep(0.2)

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask, name) for name in names]
        while len(accepted) < clients * each // 2:
            time.sleep(0.02)
        service.kill()
        service.start()
        for future in asking:
            future.result()
    assert len(accepted) == clients * each
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        with service.client(name) as client:
            own = [job["id"] for job in client.get("/segmentations?most=1000").json()]
            assert len(own) == each
            for job_id in own:
                told = answered(client, job_id)
                assert told["state"] == "done", told
                (href,) = [result["href"] for result in told["results"] if result["kind"] == "nifti"]
                label = nib.Nifti1Image.from_bytes(gzip.decompress(client.get(href).content))
                shapes[job_id] = label.shape
    assert shapes == {job_id: (10 + number % 3,) * 3 for job_id, number in accepted.items()}

    def told_of() -> list[str]:
        lines = (service.root / ".medseg/audit/log.jsonl").read_text().splitlines()
        facts = [json.loads(line)["facts"] for line in lines]
        return sorted(each["job"] for each in facts if each.get("job") in accepted)

    eventually(lambda: len(told_of()) >= len(accepted), 10, "the last answer has its line in the audit log")
    assert told_of() == sorted(accepted)


def test_killed_under_load_every_accepted_job_is_answered_once(service: ServiceProcess, tmp_path: Path) -> None:
    load(service, 4, 5, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_200_jobs_of_20_clients_through_kill_9(service: ServiceProcess, tmp_path: Path) -> None:
    load(service, 20, 10, tmp_path)
