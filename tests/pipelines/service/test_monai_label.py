"""What clients of MONAI Label send, and what they make of the answers.

Slicer's plugin asks /auth/, signs in, opens a session and infers by it; OHIF's names a series of the PACS and takes the
form apart by searching its text. Both as in MONAI Label 0.8 (plugins/slicer, plugins/ohifv3).
"""

import json
import re
from email import message_from_bytes
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from tests.pipelines.service.standing import Standing

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns of its own code
IDS = {"spleen": 12, "kidney": 9}  # of our own label maps, in the order of the network's classes
SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "user-xyz"}
OHIF = {"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": False, "restore_label_idx": False}


def form(answer: httpx.Response) -> dict[str, tuple[str, bytes]]:
    """Part -> its file name and content."""
    assert answer.status_code == 200, answer.text
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    parts = message_from_bytes(head + answer.content).get_payload()
    found = {}
    for part in parts:  # type: ignore[union-attr]
        name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
        found[name] = (part.get_filename(""), part.get_payload(decode=True))  # type: ignore[union-attr]
    return found


def image_of(content: bytes, folder: Path, name: str) -> np.ndarray:
    (folder / name).write_bytes(content)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name))).T


def own_label(standing: Standing) -> np.ndarray:
    """As the service gives it without MONAI Label."""
    job = standing.answered()
    content = standing.client.get(f"/segmentations/{job['id']}/results/nifti").content
    return image_of(content, standing.folder, "own.nii.gz")


def parted_as_ohif_does(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    boundary = re.search(r"boundary=([^;]+)", answer.headers["content-type"])[1]  # type: ignore[index]
    parts = [part for part in answer.content.split(f"--{boundary}".encode()) if part.strip()]
    told = next(part for part in parts if b"Content-Type: application/json" in part)
    image = next(part for part in parts if b"Content-Type: application/octet-stream" in part)
    return json.loads(told[told.index(b"{") : told.rindex(b"}") + 1]), image.split(b"\r\n\r\n")[1].removesuffix(b"\r\n")


def test_info_names_the_model_and_its_labels(standing: Standing) -> None:
    info = standing.client.get("/info/").raise_for_status().json()
    assert info["labels"] == ["background", *IDS]
    assert info["models"]["m"]["labels"] == dict(zip(IDS, (1, 2), strict=True))
    assert info["models"]["m"]["type"] == "segmentation"
    assert "not for clinical use" in info["models"]["m"]["description"]
    assert info["modalities"] == ["CT"]


def test_slicer_signs_in_opens_a_session_and_infers_by_it(standing: Standing) -> None:
    with httpx.Client(base_url=standing.service.address, timeout=120) as slicer:
        assert slicer.get("/auth/").json()["enabled"]
        assert slicer.get("/info/").status_code == 401
        given = {"username": "me", "grant_type": "password"}
        assert slicer.post("/auth/token", data={**given, "password": "wrong"}).status_code == 401
        token = slicer.post("/auth/token", data={**given, "password": standing.token}).raise_for_status().json()
        slicer.headers["Authorization"] = f"{token['token_type']} {token['access_token']}"
        assert slicer.get("/auth/token/valid").status_code == 200
        files = [("files", ("Quillfeather.nii.gz", standing.scan.read_bytes()))]
        session = slicer.put("/session/", files=files, data={"client_id": "x"}).raise_for_status().json()["session_id"]
        assert slicer.get(f"/session/{session}").status_code == 200
        for _ in range(2):
            path = f"/infer/m?image=Quillfeather&session_id={session}"
            answer = form(slicer.post(path, files={"params": (None, json.dumps(SLICER))}))
        told = json.loads(answer["params"][1])
        label = image_of(answer["image"][1], standing.folder, answer["image"][0])
        assert label.dtype == np.uint8
        own = own_label(standing)
        numbers = {name: number for number, (name, value) in enumerate(IDS.items(), 1) if (own == value).any()}
        assert told["label_names"] == numbers
        np.testing.assert_array_equal(label, (own == IDS["spleen"]) + 2 * (own == IDS["kidney"]))
        assert slicer.delete(f"/session/{session}").status_code == 200
        assert slicer.get(f"/session/{session}").status_code == 404
        lost = slicer.post(f"/infer/m?session_id={session}", files={"params": (None, "{}")})
        assert (lost.status_code, lost.json()["detail"]) == (404, "no such session; send the scan again")


def test_ohif_finds_its_parts_and_where_structures_are(standing: Standing) -> None:
    sent = {"params": (None, json.dumps(OHIF)), "file": ("scan.nii.gz", standing.scan.read_bytes())}
    told, image = parted_as_ohif_does(standing.client.post("/infer/m?image=x&output=all", files=sent))
    head, _, voxels = image.partition(b"\n\n")
    assert head.startswith(b"NRRD0004")
    assert b"encoding: raw" in head
    label = np.frombuffer(voxels, "<u2").reshape((40, 36, 24), order="F")
    assert set(np.unique(label)) <= {0, 1, 2}
    assert set(told["centroids"]) == set(told["label_names"])
    for name, number in told["label_names"].items():
        centre = [round(float(at.mean())) for at in np.nonzero(label == number)]
        assert told["centroids"][name] == [str(number), *map(str, centre)]


def test_basic_sign_in_and_single_outputs(standing: Standing) -> None:
    sent = {"file": ("scan.nii", standing.scan.read_bytes())}
    client = httpx.Client(base_url=standing.service.address, auth=("anyone", standing.token), timeout=120)
    with client:
        image = client.post("/infer/m?output=image", files=sent)
        assert image.headers["content-disposition"] == 'attachment; filename="label.nii.gz"'
        assert image_of(image.content, standing.folder, "label.nii.gz").shape == (40, 36, 24)
        assert client.post("/infer/m?output=json", files=sent).json()["mark"] == "not released, not for clinical use"


@pytest.mark.parametrize(
    ("path", "params", "status", "told"),
    [
        ("/infer/other", "{}", 404, "m answers here"),
        ("/infer/m", "{}", 422, "no data store"),
        ("/infer/m?image=1.2.3", "{}", 422, "no data store"),
        ("/infer/m?image=../../etc/passwd", "{}", 422, "no data store"),
        ("/infer/m?session_id=abc", "{}", 404, "no such session"),
        ("/infer/m?session_id=..%2F..", "{}", 422, "session_id"),
        ("/infer/m", "[1]", 422, "JSON object"),
        ("/infer/m", '{"modality": "../x"}', 422, "modality"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    standing: Standing, path: str, params: str, status: int, told: str
) -> None:
    answer = standing.client.post(path, files={"params": (None, params)})
    assert answer.status_code == status
    assert told in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    assert not any((standing.service.root / ".medseg/serve/arriving").iterdir())


def test_a_scan_that_is_refused_is_told_as_its_job_is(standing: Standing) -> None:
    sent = {"params": (None, '{"modality": "T1"}'), "file": ("scan.nii", standing.scan.read_bytes())}
    answer = standing.client.post("/infer/m", files=sent)
    assert answer.status_code == 422
    assert "T1" in answer.json()["detail"]
