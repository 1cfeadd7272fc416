"""Requests of people who mean no good: each has its status, nothing crashes, disk and memory are as before."""

import gzip
import io
import os
import random
import shutil
import socket
import stat
import struct
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.pipelines.service.service_process import scan
from tests.pipelines.service.strangers import LIMITS, Door, open_door

MIB = 1 << 20


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with open_door(folder) as door:
            yield door


def zipped(*names: str, content: bytes = b"x", mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = mode << 16, method
            archive.writestr(entry, content)
    return packed.getvalue()


def encrypted() -> bytes:
    whole = bytearray(zipped("a.dcm"))
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    return bytes(whole)


def endless_directory() -> bytes:
    """Its end claims a directory of 4 GB."""
    whole = bytearray(zipped("a.dcm"))
    struct.pack_into("<I", whole, whole.index(b"PK\x05\x06") + 12, 0xFFFFFF00)
    return bytes(whole)


NIFTI = b"\x5c\x01\0\0" + b"\0" * 340 + b"n+1\0" + b"\0" * 100
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
BODIES: dict[str, tuple[bytes, dict[str, str], int]] = {  # what, headers, status
    "empty": (b"", {}, 422),
    "text": (b"hello", {}, 415),
    "html": (b"<script>", {"Content-Type": "text/html"}, 415),
    "executable": (b"\x7fELF" + b"\0" * 4096, {}, 415),
    "gzip of no scan": (gzip.compress(b"\0" * 4096), {}, 415),
    "gzip cut off": (gzip.compress(os.urandom(4096))[:20], {}, 422),
    "too large": (b"\0" * (2 * MIB + 1), {}, 413),
    "zip cut off": (zipped("a.dcm", content=os.urandom(5000))[:900], {}, 422),
    "zip without end": (b"PK\x03\x04" + b"\0" * 500, {}, 422),
    "bomb": (zipped("a.dcm", content=b"\0" * (64 * MIB)), {}, 413),
    "bomb of many": (zipped(*map(str, range(21))), {}, 413),
    "endless directory": (endless_directory(), {}, 413),
    "traversal": (zipped("../../etc/passwd"), {}, 422),
    "absolute": (zipped("/etc/passwd"), {}, 422),
    "of Windows": (zipped("C:\\windows\\system.ini"), {}, 422),
    "backwards": (zipped("a\\..\\..\\b.dcm"), {}, 422),
    "symlink": (zipped("a.dcm", content=b"/etc/passwd", mode=stat.S_IFLNK | 0o777), {}, 422),
    "device": (zipped("a.dcm", mode=stat.S_IFCHR | 0o666), {}, 422),
    "encrypted": (encrypted(), {}, 422),
    "form without boundary": (b"--b", {"Content-Type": "multipart/form-data"}, 400),
    "form that is none": (b"nothing", FORM, 400),
    "form cut off": (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nxx', FORM, 400),
    "form without files": (b'--b\r\nContent-Disposition: form-data; name="to"\r\n\r\nsr\r\n--b--\r\n', FORM, 422),
    "form of endless header": (b"--b\r\nX: " + b"x" * 9000 + b"\r\n\r\n", FORM, 400),
    "json of no study": (b"{}", {"Content-Type": "application/json"}, 422),
    "json too deep": (b"[" * 60_000, {"Content-Type": "application/json"}, 422),
    "json too long": (b" " * 70_000, {"Content-Type": "application/json"}, 413),
    "no such pacs": (b'{"dicomweb":"x","study":"1.2"}', {"Content-Type": "application/json"}, 422),
    "uid with a path": (b'{"dicomweb":"x","study":"../.."}', {"Content-Type": "application/json"}, 422),
}
PATHS = [
    ("GET", "/segmentations/../../etc/passwd", 404), ("GET", "/segmentations/%2e%2e%2f%2e%2e/results/nifti", 404),
    ("GET", "/segmentations/x/results/..%2fjobs.db", 404), ("DELETE", "/segmentations/' OR 1=1 --", 404),
    ("PUT", "/segmentations", 405), ("GET", "/segmentations?most=-1", 422), ("GET", "/segmentations?most=a", 422),
    ("POST", "/segmentations?to=everything", 422), ("POST", "/segmentations?to=sr", 422),
    ("POST", "/segmentations?deliver=nowhere", 422), ("POST", "/segmentations?modality=%00", 422),
    ("GET", "/nothing", 404), ("TRACE", "/health", 405),
]  # fmt: skip
Request = Callable[[Door], tuple[str, int, int]]  # what, status, status due


def with_body(name: str) -> Request:
    def send(door: Door) -> tuple[str, int, int]:
        body, headers, due = BODIES[name]
        with door.client() as client:
            return name, client.post("/segmentations", content=body, headers=headers).status_code, due

    return send


def with_path(method: str, path: str, due: int) -> Request:
    def send(door: Door) -> tuple[str, int, int]:
        with door.client() as client:
            return f"{method} {path}", client.request(method, path).status_code, due

    return send


def without_token(door: Door) -> tuple[str, int, int]:
    token = random.choice(["", "Bearer", "Bearer x", "Basic eDp4", "Bearer " + "x" * 9000])
    path = random.choice(["/segmentations", "/segmentations/x", "/segmentations/x/results/nifti", "/metrics"])
    return "no token", httpx.get(door.address + path, headers={"Authorization": token}, timeout=60).status_code, 401


def raw(door: Door, *pieces: bytes, pause_s: float = 0.0, cut: bool = False) -> int:
    """Status of what is written byte for byte; 0 if the connection just ends."""
    with socket.create_connection((door.host, door.port), timeout=30) as peer:
        for piece in pieces:
            try:
                peer.sendall(piece)
            except OSError:
                break
            time.sleep(pause_s)
        if cut:
            return 0
        try:
            answer = peer.recv(4096)
        except OSError:
            return 0
    return int(answer.split()[1]) if answer else 0


def head(door: Door, *headers: str) -> bytes:
    lines = ["POST /segmentations HTTP/1.1", "Host: x", f"Authorization: Bearer {door.token}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def slow_head(door: Door) -> tuple[str, int, int]:
    return "slow head", raw(door, *[b"GET / HTTP/1.1\r\n", *[b"X: y\r\n"] * 8], pause_s=0.25), 408


def slow_body(door: Door) -> tuple[str, int, int]:
    return "slow body", raw(door, head(door, "Content-Length: 1000"), b"x", pause_s=0.1), 408


def dribbled_body(door: Door) -> tuple[str, int, int]:
    return "dribble", raw(door, head(door, "Content-Length: 1000"), *[b"x"] * 12, pause_s=0.5), 408


def cut_body(door: Door) -> tuple[str, int, int]:
    return "cut", raw(door, head(door, "Content-Length: 100000"), NIFTI, cut=True), 0


def huge_claim(door: Door) -> tuple[str, int, int]:
    return "claim", raw(door, head(door, "Content-Length: 99999999999999")), 413


def endless_chunks(door: Door) -> tuple[str, int, int]:
    chunk = b"10000\r\n" + b"\0" * 0x10000 + b"\r\n"
    return "chunks", raw(door, head(door, "Transfer-Encoding: chunked"), *[chunk] * 40), 413


def smuggled(door: Door) -> tuple[str, int, int]:
    both = head(door, "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Content-Length: 5")
    return "smuggled", raw(door, both, b"0\r\n\r\nGET"), 400


def long_head(door: Door) -> tuple[str, int, int]:
    return "long head", raw(door, b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 200_000), 400


def no_http(door: Door) -> tuple[str, int, int]:
    return "no HTTP", raw(door, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"), 400


FAST: list[Request] = [
    *(with_body(name) for name in BODIES), *(with_path(*each) for each in PATHS),
    without_token, cut_body, huge_claim, endless_chunks, smuggled, long_head, no_http,
]  # fmt: skip
SLOW: list[Request] = [slow_head, slow_body, dribbled_body]


def attack(door: Door, requests: list[Request]) -> None:
    random.Random(0).shuffle(requests)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda send: send(door), requests))
    wrong = Counter(answer for answer in answers if answer[1] != answer[2])
    assert not wrong


def left_on_disk(door: Door) -> list[Path]:
    folder = door.service.spool.folder
    return [path for name in ("arriving", "inputs", "working", "results") for path in (folder / name).iterdir()]


def settled(door: Door) -> None:
    deadline = time.monotonic() + 20
    while (left := left_on_disk(door)) or any(door.service.uploading.values()):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def rounds(door: Door, count: int) -> None:
    """`count` requests, most of them quick, after some that warm all up; a scan is accepted before and after."""
    process = psutil.Process()
    attack(door, [*FAST, *SLOW])
    settled(door)
    before, threads = process.memory_info().rss, threading.active_count()
    files = process.num_fds()
    requests = [*SLOW, *FAST * (count // len(FAST) + 1)][:count]
    attack(door, requests)
    settled(door)
    assert process.memory_info().rss - before < 64 * MIB
    assert process.num_fds() <= files + 5
    assert threading.active_count() <= threads + 45  # a pool's, which stay


def test_hostile_requests_have_their_status_and_leave_nothing(door: Door, tmp_path: Path) -> None:
    rounds(door, 60)
    with door.client() as client:
        asked = client.post("/segmentations", content=scan(tmp_path / "a.nii.gz").read_bytes())
        assert asked.status_code == 202
        assert client.delete(f"/segmentations/{asked.json()['id']}").status_code == 200
    settled(door)


@pytest.mark.slow
def test_500_hostile_requests(door: Door) -> None:
    rounds(door, 500)


def test_slow_connections_do_not_keep_others_out(door: Door) -> None:
    """All that there may be at once, and all of them silent."""
    silent = [socket.create_connection((door.host, door.port)) for _ in range(LIMITS.connections + 10)]
    try:
        for each in silent:
            each.sendall(b"GET /health HTTP/1.1\r\n")
        deadline = time.monotonic() + 20
        while True:
            try:
                if httpx.get(f"{door.address}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline
    finally:
        for each in silent:
            each.close()


def test_too_many_wait(door: Door, tmp_path: Path) -> None:
    content = scan(tmp_path / "a.nii.gz").read_bytes()
    with door.client() as client:
        answers = [client.post("/segmentations", content=content) for _ in range(LIMITS.per_token + 1)]
        assert [each.status_code for each in answers] == [202] * LIMITS.per_token + [429]
        assert int(answers[-1].headers["retry-after"]) >= 5
        for each in answers[:-1]:
            client.delete(f"/segmentations/{each.json()['id']}")
        assert client.post("/segmentations", content=content).status_code == 202
    shutil.rmtree(door.service.spool.folder / "inputs")
    (door.service.spool.folder / "inputs").mkdir()


def test_a_full_disk_is_told(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    with door.client() as client:
        answer = client.post("/segmentations", content=NIFTI)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    settled(door)
