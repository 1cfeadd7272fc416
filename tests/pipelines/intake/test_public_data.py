"""Fetching a data set, from a real server on loopback."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines.intake import public_data

FOLDER = "Task04_Hippocampus"


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (("dataset.json", b"{}"), ("imagesTr/a.nii.gz", b"scan"), ("imagesTr/._a.nii.gz", b"mac")):
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def served() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive())))
            self.end_headers()
            self.wfile.write(archive())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/{FOLDER}.tar"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_data_set_arrives_whole_and_is_not_fetched_twice(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    md5 = hashlib.md5(archive(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(public_data.DATASETS, "hippocampus", (served, md5, FOLDER))
    for _ in range(2):
        found = public_data.fetch("hippocampus", tmp_path)
        monkeypatch.setitem(public_data.DATASETS, "hippocampus", ("http://127.0.0.1:1/gone", md5, FOLDER))
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        f"{FOLDER}/dataset.json",
        f"{FOLDER}/imagesTr/a.nii.gz",
    ]
    assert found == tmp_path / FOLDER


def test_a_damaged_download_leaves_nothing(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(public_data.DATASETS, "hippocampus", (served, "0" * 32, FOLDER))
    with pytest.raises(ValueError, match="is not the published 0000"):
        public_data.fetch("hippocampus", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_it_says_so_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(public_data.DATASETS, "hippocampus", ("http://127.0.0.1:1/gone", "", FOLDER))
    with pytest.raises(ValueError, match=r"cannot be reached .*no network here\?.*--data FOLDER"):
        public_data.fetch("hippocampus", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown data set 'spleen'; known: hippocampus"):
        public_data.fetch("spleen", tmp_path)
