"""Fetching from a PACS and delivering to one: a real Orthanc, and peers that refuse, lie, redirect and dribble."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from pydicom import dcmread
from pydicom.uid import CTImageStorage, EncapsulatedPDFStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from pipelines.service.destinations import WantedStudy, fetch, send
from pipelines.service.dicomweb import stow, wado
from pipelines.service.peers import NodePeer, PeerBusyError, PeerRefusedError, WebPeer
from pipelines.service.store_scu import send_to
from tests.pipelines.dicom import dicom_files
from tests.pipelines.service.orthanc import AE_TITLE, Orthanc, needs_orthanc, running

STUDY, SERIES = dicom_files.uid("study", "a"), dicom_files.uid("series", "a", "s")


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running(tmp_path_factory.mktemp("orthanc")) as orthanc:
        yield orthanc


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return dicom_files.series(tmp_path / "in")


def wanted(folder: Path, **how: Any) -> WantedStudy:
    folder.mkdir(exist_ok=True)
    return WantedStudy(
        **{"study": STUDY, "series": SERIES, "folder": folder, "max_bytes": 1 << 30, "max_files": 100, **how}
    )


@needs_orthanc
def test_what_a_pacs_holds_is_fetched_as_it_is_stored(pacs: Orthanc, files: list[Path], tmp_path: Path) -> None:
    pacs.clear()
    pacs.upload([*files, *dicom_files.series(tmp_path / "other", series="t")])
    peer = WebPeer(dicomweb=pacs.dicomweb, token_file=pacs.token_file)
    assert fetch(peer, wanted(tmp_path / "got")) == 6
    sent = {dcmread(file).SOPInstanceUID: dcmread(file).pixel_array for file in files}
    got = {dcmread(file).SOPInstanceUID: dcmread(file).pixel_array for file in (tmp_path / "got").iterdir()}
    assert set(got) == set(sent)
    assert all(np.array_equal(got[uid], sent[uid]) for uid in sent)
    assert wado(peer, wanted(tmp_path / "whole", series="")) == 12
    assert wado(peer, wanted(tmp_path / "by series", study="")) == 6
    for how, told in (
        ({"study": "1.2.3"}, r"no such study, series or service \(HTTP 404\)"),
        ({"study": "1/../2"}, "study is no DICOM UID: 1 to 64 digits and dots are due; 6 characters"),
        ({"series": "1.2.3.9"}, "HTTP 404"),
        ({"study": "", "series": "1.2.3.9"}, "holds no such series"),
        ({"study": "", "series": ""}, "series is no DICOM UID"),
        ({"max_bytes": 5000}, "sent more than 5000 bytes"),
        ({"max_files": 5}, "more than 5 objects"),
    ):
        with pytest.raises(PeerRefusedError, match=told):
            wado(peer, wanted(tmp_path / "none", **how))
    with pytest.raises(PeerRefusedError, match=r"does not let us fetch \(HTTP 401\); check `token_file`"):
        fetch(WebPeer(dicomweb=pacs.dicomweb), wanted(tmp_path / "none"))


@needs_orthanc
def test_a_pacs_has_what_is_delivered_once(pacs: Orthanc, files: list[Path], tmp_path: Path) -> None:
    pacs.clear()
    pacs.knows("us", "MEDSEG", 11112)
    node = NodePeer(ae_title=AE_TITLE, host="127.0.0.1", port=pacs.dicom_port)
    send(WebPeer(dicomweb=pacs.dicomweb, token_file=pacs.token_file), files[:4])
    send(node, files[2:])
    send_to(node, files, "MEDSEG")
    (found,) = pacs.rest("GET", "/studies")
    assert len(pacs.rest("GET", f"/studies/{found}/instances")) == 6

    def send_to_another() -> None:
        for _ in range(5):  # on a busy machine pynetdicom may see the connection's end before the rejection
            with suppress(PeerBusyError):
                send_to(node.model_copy(update={"ae_title": "ELSE"}), files, "MEDSEG")

    with pytest.raises(PeerRefusedError, match="rejects us; enter MEDSEG there"):
        send_to_another()
    with pytest.raises(PeerBusyError, match="does it know our AE title"):
        send_to(node, files, "STRANGER")


class Hostile(BaseHTTPRequestHandler):
    """Does with a request what the test says; keeps its headers."""

    does: Callable[["Hostile"], None]
    headers_seen: list[dict[str, str]]

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def do_GET(self) -> None:
        self.headers_seen.append(dict(self.headers))
        type(self).does(self)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def answer(self, status: int, body: bytes = b"", kind: str = "application/dicom+json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def dribble(self) -> None:
        self.answer(200, b"--x\r\n", "multipart/related; boundary=x", **{"Content-Length": "100000"})
        while True:
            self.wfile.write(b"0")
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hostile() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hostile.headers_seen = []
    yield f"http://127.0.0.1:{server.server_port}/dicom"
    server.shutdown()
    server.server_close()


def failed(*reasons: int) -> bytes:
    items = [{"00081197": {"vr": "US", "Value": [reason]}} for reason in reasons]
    return json.dumps({"00081198": {"vr": "SQ", "Value": items}}).encode()


MULTIPART = 'multipart/related; type="application/dicom"; boundary=x'


@pytest.mark.parametrize(
    ("does", "raised", "told"),
    [
        (lambda peer: peer.answer(503), PeerBusyError, r"could not fetch \(HTTP 503\)"),
        (lambda peer: peer.answer(429), PeerBusyError, "HTTP 429"),
        (lambda peer: peer.answer(400, b"Quillfeather"), PeerRefusedError, r"refused to fetch \(HTTP 400\)"),
        (lambda peer: peer.answer(302, Location="/elsewhere"), PeerRefusedError, "leads elsewhere"),
        (lambda peer: peer.answer(200, b"<html>", "text/html"), PeerRefusedError, "does not answer as DICOMweb"),
        (
            lambda peer: peer.answer(200, b"--x\r\n\r\nQuillfeather\r\n--x--", MULTIPART),
            PeerRefusedError,
            "as DICOMweb",
        ),
        (lambda peer: peer.answer(200, b"\r\n--x--", MULTIPART), PeerRefusedError, "holds nothing"),
        (lambda peer: peer.answer(200, b"0" * 2_000_000, MULTIPART), PeerRefusedError, "more than 1000000 bytes"),
        (lambda peer: peer.answer(200, b"--x", MULTIPART, **{"Content-Length": "99"}), PeerBusyError, "fell silent"),
        (lambda peer: peer.connection.shutdown(socket.SHUT_RDWR), PeerBusyError, "cannot be reached or fell silent"),
    ],
)
def test_a_peer_that_does_not_answer_as_it_should_is_told_apart(
    hostile: str, tmp_path: Path, does: Callable[[Hostile], None], raised: type[Exception], told: str
) -> None:
    Hostile.does = staticmethod(does)  # type: ignore[assignment]
    with pytest.raises(raised, match=told) as error:
        wado(WebPeer(dicomweb=hostile), wanted(tmp_path / "got", max_bytes=1_000_000))
    assert "Quillfeather" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "body", "raised"),
    [
        (200, failed(0xA700), PeerBusyError),
        (202, failed(0xC000), PeerRefusedError),
        (409, failed(0xA900), PeerRefusedError),
        (409, failed(0x0110), PeerBusyError),
        (409, b"Quillfeather", PeerRefusedError),
        (409, failed(0x0111), PeerRefusedError),
        (200, failed(0x0111), None),  # it has the object
        (200, b"", None),
    ],
)
def test_what_a_peer_says_of_an_object_counts(
    hostile: str, files: list[Path], status: int, body: bytes, raised: type[Exception] | None
) -> None:
    Hostile.does = staticmethod(lambda peer: peer.answer(status, body))  # type: ignore[assignment]
    if raised:
        with pytest.raises(raised, match=r"object|refused to store \(HTTP 409\)"):
            stow(WebPeer(dicomweb=hostile), files)
    else:
        assert stow(WebPeer(dicomweb=hostile), files) == 6


def test_a_peer_that_dribbles_has_its_time(hostile: str, tmp_path: Path) -> None:
    Hostile.does = Hostile.dribble  # type: ignore[assignment]
    start = time.monotonic()
    with pytest.raises(PeerBusyError, match="the talk took longer than 3 s"):
        fetch(WebPeer(dicomweb=hostile, timeout_s=3), wanted(tmp_path / "got"))
    assert time.monotonic() - start < 120


def test_a_token_goes_along_and_is_guarded(hostile: str, files: list[Path], tmp_path: Path) -> None:
    Hostile.does = staticmethod(lambda peer: peer.answer(200))  # type: ignore[assignment]
    token = tmp_path / "token"
    peer = WebPeer(dicomweb=hostile, token_file=token)
    with pytest.raises(PeerRefusedError, match=r"token_file .*: No such file"):
        stow(peer, files)
    for content, due in (("abc\n", "Bearer abc"), ("Basic eDp5", "Basic eDp5")):
        token.write_text(content)
        token.chmod(0o600)
        stow(peer, files[:1])
        assert Hostile.headers_seen[-1]["Authorization"] == due
    token.chmod(0o644)
    with pytest.raises(PeerRefusedError, match="others can reach it; `chmod 600"):
        stow(peer, files)
    token.chmod(0o600)
    token.write_text("two\nlines")
    with pytest.raises(PeerRefusedError, match="in one line are due") as error:
        stow(peer, files)
    assert "lines" not in str(error.value).replace("one line", "")
    with pytest.raises(ValidationError, match="dicomweb"):
        WebPeer(dicomweb="http://user:password@host/")


@pytest.mark.parametrize(
    ("status", "raised"), [(0xA700, PeerBusyError), (0xC000, PeerRefusedError), (0xB000, None), (0x0111, None)]
)
def test_what_a_node_says_of_an_object_counts(files: list[Path], status: int, raised: type[Exception] | None) -> None:
    entity = AE(ae_title="NODE")
    entity.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: status)])
    assert server is not None
    node = NodePeer(ae_title="NODE", host="127.0.0.1", port=server.server_address[1])
    try:
        if raised:
            with pytest.raises(raised, match=f"status {status:04X}H"):
                send_to(node, files, "MEDSEG")
        else:
            assert send_to(node, files[:2], "MEDSEG") == 2
    finally:
        server.shutdown()


def test_a_node_that_knows_a_class_too_few_is_told(files: list[Path], tmp_path: Path) -> None:
    document = dicom_files.image()
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    dicom_files.write(document, tmp_path / "document.dcm")
    entity = AE(ae_title="NODE")
    entity.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    node = NodePeer(ae_title="NODE", host="127.0.0.1", port=server.server_address[1])
    with pytest.raises(PeerRefusedError, match="does not take Encapsulated PDF Storage as Explicit VR"):
        send_to(node, [*files, tmp_path / "document.dcm"], "MEDSEG")
    server.shutdown()
    with pytest.raises(PeerBusyError, match="cannot be reached"):
        send(node, files)
    with pytest.raises(PeerRefusedError, match="is a DIMSE node; studies are fetched by DICOMweb"):
        fetch(node, wanted(tmp_path / "got"))
