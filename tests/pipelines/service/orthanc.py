"""A real PACS on this machine: Orthanc of Debian, with DICOMweb, DIMSE and REST, a password, and nothing in it."""

import json
import os
import shutil
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

PROGRAM = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
needs_orthanc = pytest.mark.skipif(
    PROGRAM is None or not DICOMWEB.is_file(), reason="no Orthanc: `apt install orthanc orthanc-dicomweb`"
)
AE_TITLE, USER, PASSWORD = "ORTHANC", "medseg", "secret"


@dataclass
class Orthanc:
    http_port: int
    dicom_port: int
    token_file: Path

    @property
    def dicomweb(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def rest(self, method: str, path: str, **how: Any) -> Any:
        answer = httpx.request(
            method, f"http://127.0.0.1:{self.http_port}{path}", auth=(USER, PASSWORD), timeout=60,
            verify=False, **how,
        )  # fmt: skip
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def upload(self, files: list[Path]) -> None:
        for file in files:
            self.rest("POST", "/instances", content=file.read_bytes())

    def qido(self, study: str) -> list[dict[str, Any]]:
        """Series of the study."""
        return list(self.rest("GET", f"/dicom-web/studies/{study}/series"))

    def modalities(self, study: str) -> list[str]:
        """Of the study's series, by QIDO-RS."""
        return sorted(series["00080060"]["Value"][0] for series in self.qido(study))

    def wait(self, study: str, series: int, patience_s: float = 900) -> None:
        """Until the study has so many series."""
        end = time.monotonic() + patience_s
        while len(self.qido(study)) < series:
            assert time.monotonic() < end, self.modalities(study)
            time.sleep(0.3)

    def file(self, instance: str) -> bytes:
        address = f"http://127.0.0.1:{self.http_port}/instances/{instance}/file"
        return httpx.get(address, auth=(USER, PASSWORD), timeout=60).content

    def knows(self, name: str, ae_title: str, port: int) -> None:
        """As a node that takes C-STORE and may send it."""
        self.rest("PUT", f"/modalities/{name}", json={"AET": ae_title, "Host": "127.0.0.1", "Port": port})

    def forward(self, study: str, name: str) -> dict[str, Any]:
        """All of a study, by C-STORE."""
        (found,) = self.rest("POST", "/tools/lookup", content=study)
        return dict(self.rest("POST", f"/modalities/{name}/store", json={"Resources": [found["ID"]]}))

    def clear(self) -> None:
        for study in self.rest("GET", "/studies"):
            self.rest("DELETE", f"/studies/{study}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running(folder: Path) -> Iterator[Orthanc]:
    assert PROGRAM is not None
    http_port, dicom_port = free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "Name": "test", "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
        "HttpPort": http_port, "DicomPort": dicom_port, "DicomAet": AE_TITLE, "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True, "RegisteredUsers": {USER: PASSWORD}, "Plugins": [str(DICOMWEB)],
        "DicomWeb": {"Enable": True}, "DicomAlwaysAllowStore": False, "DicomCheckCalledAet": True,
        "DicomModalitiesInDatabase": True, "ConcurrentJobs": 1, "StableAge": 1,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    token_file = folder / "token"
    token_file.write_text(f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}\n")
    token_file.chmod(0o600)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([PROGRAM, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        orthanc = Orthanc(http_port, dicom_port, token_file)
        _wait(orthanc, process, folder / "log")
        yield orthanc
    finally:
        process.terminate()
        process.wait(30)


def _wait(orthanc: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            orthanc.rest("GET", "/system")
            return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())
