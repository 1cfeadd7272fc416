"""The audit finds what identifies a patient wherever it lies, and raises no alarm where nothing does."""

import bz2
import gzip
import json
import lzma
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.dicom.identity import Identity, Value, collect
from pipelines.dicom.needles import Needles
from pipelines.params import profiles
from pipelines.questions import phi
from tests.pipelines.dicom import dicom_files as files


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """All that identifies in one raw series."""
    raw = tmp_path_factory.mktemp("known") / "raw"
    files.series(raw / "Quillfeather, Zebulon" / "visit_20190822")
    return collect(raw, retain_device=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with some innocent outputs."""
    for folder in ("data/cases", "models/train", "reports", ".medseg"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "reports" / "metrics.json").write_text('{"dice": 0.7731942001, "when": "2026-01-02 09:32:11", "id": 1}')
    return tmp_path


def kinds(project: Path, known: Identity) -> set[str]:
    result = phi.search_project(project, known)
    assert result["ok"] == (not result["found"])
    text = json.dumps(result)
    assert not [secret for secret in ("uillfeather", files.PATIENT, files.uid("study", "a")) if secret in text]
    return {kind for entry in result["found"] for kind in entry["kinds"]}


def test_innocent_outputs_raise_no_alarm(project: Path, known: Identity) -> None:
    result = phi.search_project(project, known)
    assert result["ok"], result["found"]
    assert result["dicom_files"] == 6
    assert set(result["values"]) >= {"name", "id", "date", "uid", "place", "device", "path"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("patient Zebulon Quillfeather was", "name"), ("QUILLFEATHER_ZEBULON", "name"), ("quillfeather", "name"),
        ("zebulonquillfeather", "name"), (files.PATIENT, "id"), (files.ACCESSION, "id"), ("20190822", "date"),
        ("2019-08-22", "date"), ("22.08.2019", "date"), ("22 Aug 2019", "date"), ("08/22/2019", "date"),
        ("14.03.1951", "date"), (files.uid("study", "a"), "uid"), (files.uid("a", "s", 3), "uid"),
        ("at saint ophelia infirmary", "place"), ("SN-88812345", "device"), ("/mnt/visit_20190822/x", "path"),
    ],
)  # fmt: skip
def test_every_kind_is_found_in_plain_text(project: Path, known: Identity, text: str, kind: str) -> None:
    (project / "reports" / "log.txt").write_text(f"some words before {text} and after")
    assert kind in kinds(project, known)


def plain(path: Path, content: bytes) -> None:
    path.write_bytes(b"\x00\xff" * 500 + content + b"\x00" * 100)


def gzipped(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content))


def gzipped_twice(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(gzip.compress(content)))


def bzipped(path: Path, content: bytes) -> None:
    path.write_bytes(bz2.compress(content))


def xzipped(path: Path, content: bytes) -> None:
    path.write_bytes(lzma.compress(content))


def zipped(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.txt", content)


def parquet(path: Path, content: bytes) -> None:
    pq.write_table(pa.table({"a": [["x", content.decode()]]}), path, compression="zstd")


def parquet_metadata(path: Path, content: bytes) -> None:
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"note": content}), path)


def database(path: Path, content: bytes) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (a TEXT)")
        connection.execute("INSERT INTO t VALUES (?)", ("x" * 4085 + content.decode() + "y" * 9000,))


def wide(path: Path, content: bytes) -> None:
    path.write_bytes(content.decode().encode("utf-16-le"))


def safetensors(path: Path, content: bytes) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, path, metadata={"note": content.decode()})


def across_two_pieces(path: Path, content: bytes) -> None:
    from pipelines.questions.file_contents import PIECE

    path.write_bytes(b" " * (PIECE - 4) + content)


PACKERS = [
    plain, gzipped, gzipped_twice, bzipped, xzipped, zipped, parquet, parquet_metadata, database, wide, safetensors,
    across_two_pieces,
]  # fmt: skip


@pytest.mark.parametrize("pack", PACKERS, ids=lambda pack: pack.__name__)
def test_a_name_is_found_however_it_is_packed(
    project: Path, known: Identity, pack: Callable[[Path, bytes], None]
) -> None:
    pack(project / ".medseg" / "blob", b" Quillfeather^Zebulon ")
    assert kinds(project, known) == {"name"}


def test_a_name_in_a_file_name_is_found_and_not_repeated(project: Path, known: Identity) -> None:
    (project / "models" / "Quillfeather_Zebulon.pt").write_text("x")
    (entry,) = phi.search_project(project, known)["found"]
    assert entry == {"file": "models/...", "kinds": ["name"], "in_name": True}


def test_the_audit_of_a_project_reads_its_own_raw_files_and_obeys_its_parameters(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke = profiles.compose("smoke")
    monkeypatch.chdir(project)
    monkeypatch.delenv("MEDSEG_ROOT", raising=False)
    (project / "dvc.yaml").write_text("stages: {}\n")
    (project / "params.yaml").write_text(smoke)
    files.series(project / "data" / "raw" / "s")
    (project / "reports" / "log.txt").write_text("scanned on SN-88812345")
    assert [entry["kinds"] for entry in phi.search()["found"]] == [["device"]]
    (project / "params.yaml").write_text(smoke.replace("retain_device: false", "retain_device: true"))
    assert phi.search()["ok"]


def spelled(kind: str, text: str, ordinary: frozenset[str] = frozenset(), since: date = date(2026, 1, 1)) -> Needles:
    return Needles([Value(kind, text)], ordinary, since)


def test_short_values_and_words_of_the_program_are_left_out_and_counted() -> None:
    for kind, text in (("id", "42"), ("id", "123456"), ("name", "Wu^Li"), ("path", "IM00001"), ("text", "scan")):
        needles = spelled(kind, text)
        assert dict(needles.left_out) == {kind: 1}
        assert not needles.found_in(text.encode())
    grace = spelled("name", "Hopper^Grace", frozenset({"grace"}))
    assert not grace.found_in(b"MEDSEG_GRACE_S")
    assert grace.found_in(b"Grace Hopper")


def test_digits_inside_a_number_or_a_word_are_no_finding() -> None:
    needles = spelled("id", "7731942")
    assert needles.found_in(b"id=7731942.")
    assert not needles.found_in(b"0.7731942")
    assert not needles.found_in(b"177319425")
    assert not spelled("name", "Smith^Jo").found_in(b"blacksmiths")


def test_a_date_in_the_life_of_the_project_is_not_confused_with_its_time_stamps() -> None:
    needles = spelled("date", "20260305")
    assert not needles.found_in(b"2026-03-05 10:00:00 INFO")
    assert needles.found_in(b"20260305")
    assert needles.found_in(b"05.03.2026")
    assert spelled("date", "20250305").found_in(b"2025-03-05")


def test_names_in_other_scripts_are_found() -> None:
    needles = Needles([Value("name", "M\xfcller-L\xfcdenscheidt^J\xf6rg")], frozenset(), date(2026, 1, 1))
    assert needles.found_in("M\xdcLLER-L\xdcDENSCHEIDT".encode())
    assert needles.found_in("j\xf6rg m\xfcller-l\xfcdenscheidt".encode("latin-1"))
    assert spelled("name", "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce").found_in("\u60a3\u8005 \u5c71\u7530".encode())
