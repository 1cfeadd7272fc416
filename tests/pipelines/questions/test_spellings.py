"""The audit knows a name in every layout's folders, and in every way in which programs write it."""

import base64
import gzip
import html
import json
import sqlite3
import subprocess
import unicodedata
import zlib
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from pipelines.dicom.descriptors import clean, technical
from pipelines.dicom.identity import Identity, Value
from pipelines.dicom.needles import Needles
from pipelines.questions import phi, raw_names

NAME = "K\xfchnhau\xdfer"
SINCE = date(2026, 1, 1)


def needles(*values: Value) -> Needles:
    return Needles(values, frozenset(), SINCE)


def found(project: Path, *values: Value) -> list[str]:
    result = phi.search_project(project, Identity(frozenset(values), 0, 0))
    assert result["ok"] == (not result["found"])
    return [entry["file"] for entry in result["found"]]


@pytest.mark.parametrize(
    "written",
    [
        lambda name: name.encode(), lambda name: name.upper().encode(), lambda name: name.encode("latin-1"),
        lambda name: json.dumps(name).encode(), lambda name: json.dumps(name.upper()).encode(),
        lambda name: name.encode("ascii", "xmlcharrefreplace"), lambda name: b"K&uuml;hnhau&szlig;er",
        lambda name: b"K&#xFC;hnhau&#xDF;er", lambda name: quote(name).encode(),
        lambda name: quote(name.encode("latin-1")).encode(), lambda name: unicodedata.normalize("NFD", name).encode(),
        lambda name: json.dumps(unicodedata.normalize("NFD", name)).encode(), lambda name: b"Kuehnhausser",
        lambda name: b"KUEHNHAUSSER", lambda name: name.encode("utf-16-le"), lambda name: name.encode("utf-32-le"),
        lambda name: base64.b64encode(b"a patient: " + name.encode() + b", born"),
        lambda name: base64.urlsafe_b64encode(b"patient: " + name.upper().encode()),
        lambda name: base64.b64encode(b"patients: " + b"Kuehnhausser"),
    ],
)  # fmt: skip
def test_a_name_is_found_in_every_way_of_writing_its_letters(written: Callable[[str], bytes]) -> None:
    assert needles(Value("name", f"{NAME}^Anna")).found_in(b"\x00 " + written(NAME) + b" \x00") == {"name"}
    assert html.unescape("K&uuml;hnhau&szlig;er") == NAME


@pytest.mark.parametrize(
    "day",
    ["19510314", "1951-03-14", "14.03.1951", "14.3.1951", "3/14/1951", "14/3/51", "03/14/51", "14.03.51", "14 03 1951",
     "14 03 51", "1951 03 14", "March 14, 1951", "Mar 14, 1951", "14 March 1951", "14 MAR 1951", "14-Mar-1951",
     "14. March 1951"],
)  # fmt: skip
def test_a_date_is_found_in_every_usual_form(day: str) -> None:
    assert needles(Value("date", "19510314")).found_in(f"born {day}, here".encode()) == {"date"}


def test_versions_and_numbers_are_no_dates() -> None:
    searched = needles(*(Value("date", f"20{year:02d}0412") for year in range(26)))
    assert not searched.found_in(b"torch 2.4.12, 12.4.1 4.12.20 0.12.04.20 312.04.201 12.4.20")


@pytest.mark.parametrize("shown", ["123-456-789", "123456789", "123 456 789", "123.456.789", "123_456_789"])
def test_an_id_is_found_with_other_separators_or_none(shown: str) -> None:
    assert needles(Value("id", "123-456-789")).found_in(f"brain {shown} x".encode()) == {"id"}


def png(kind: bytes, content: bytes) -> bytes:
    head = b"Comment\0\0" if kind == b"zTXt" else b"Comment\0\1\0de\0Kommentar\0"
    body = kind + head + zlib.compress(content)
    return b"\x89PNG\r\n\x1a\n" + len(body).to_bytes(4, "big") + body + b"\0\0\0\0"


def in_database(path: Path, value: bytes) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (a BLOB)")
        connection.execute("INSERT INTO t VALUES (?)", (value,))


def numpy_text(path: Path, content: bytes) -> None:
    np.savez_compressed(path.with_suffix(".npz"), a=np.array([content.decode()]))


@pytest.mark.parametrize(
    "pack",
    [
        lambda path, content: path.write_bytes(png(b"zTXt", content)),
        lambda path, content: path.write_bytes(png(b"iTXt", content)),
        lambda path, content: path.write_bytes(b"\x01" + gzip.compress(content)),
        lambda path, content: path.write_bytes(b"header" * 99 + gzip.compress(content) + b"rest"),
        lambda path, content: in_database(path, gzip.compress(content)),
        lambda path, content: in_database(path, zlib.compress(content)),
        numpy_text,
    ],
)
@pytest.mark.parametrize("place", [".", "docs", "profiles", "reports", ".medseg"])
def test_a_name_is_found_however_it_is_packed_and_wherever_it_lies(
    tmp_path: Path, pack: Callable[[Path, bytes], None], place: str
) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    pack(tmp_path / place / "blob", b" about Quennevault and others " * 3)
    assert len(found(tmp_path, Value("name", "Quennevault^Odo"))) == 1


def test_a_name_in_gits_history_is_found_and_the_programs_own_text_is_not_searched(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init")
    for name in ("tests/example.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name}: about Quennevault")
        git("add", "-A")
        git("-c", "user.name=x", "-c", "user.email=x", "commit", "-m", "one")
    (tmp_path / "notes.txt").unlink()
    assert "tests/example.py" in found(tmp_path, Value("name", "Quennevault^Odo"))  # of a project without the program
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/__main__.py").touch()
    (object_found,) = found(tmp_path, Value("name", "Quennevault^Odo"))
    assert object_found.startswith(".git (object ")


def test_names_of_raw_files_and_folders_are_known_in_every_layout(tmp_path: Path) -> None:
    for name in (
        "Dataset042_X/imagesTr/QUENNEVAULT_ODO_0000.nii.gz", "sub-Ravensbourne/anat/sub-Ravensbourne_T1w.nii.gz",
        "Kuensebeck, Ida/case_00001/imaging.nii.gz", "case_7123456/segmentation.nii.gz",
        "KH-20931/KH-20931_flair.nii.gz",
        "letters/An Herrn Thaddeus.txt",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    searched = Needles(raw_names.collect(tmp_path), frozenset(), SINCE)
    for text in ("Odo Quennevault", "RAVENSBOURNE", "Ida_Kuensebeck", "7123456", "KH20931", "kh-20931", "Thaddeus"):
        assert searched.found_in(f"see {text} there".encode()), text
    for text in ("imaging", "segmentation.nii.gz", "Dataset", "case_00001", "T1w", "anat", "letters"[:3]):
        assert not searched.found_in(f"see {text} there".encode()), text


def test_published_names_are_nothing_to_search_for_and_that_is_no_success(tmp_path: Path) -> None:
    for name in ("Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz", "patient001/patient001_frame01_gt.nii.gz"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).touch()
    assert raw_names.collect(tmp_path / "raw") == set()
    result = phi.search_project(tmp_path, Identity(frozenset(), 0, 0))
    assert not result["ok"]
    assert not result["found"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [("text", "siemens"), ("device", "galan 3t"), ("private", "std brain 5mm"), ("place", "GE Medical Systems"),
     ("private", "LightSpeed Plus"), ("name", "philips")],
)  # fmt: skip
def test_what_the_record_keeps_on_purpose_is_left_out_and_counted(kind: str, text: str) -> None:
    searched = needles(Value(kind, text))
    assert dict(searched.left_out) == {kind: 1}
    assert not searched.found_in(text.encode())


def test_numbers_that_may_be_a_date_or_an_id_are_cleaned_out_of_descriptions() -> None:
    told = {
        "brain 12/03/65 123-456-789": "brain", "12 smith 03 jones 65": "", "head 14 march 51": "head",
        "t1 post 9 ml 5mm": "t1 post 9 ml 5mm", "1 head 2 neck 3": "head neck", "brain 3": "brain 3",
    }  # fmt: skip
    assert {text: clean(text) for text in told} == told


def test_what_a_machine_fills_in_is_kept_by_lists_of_words_and_codes() -> None:
    for keyword, text, kept in (
        ("BodyPartExamined", f"KNIE {NAME.upper()}", ""), ("BodyPartExamined", "HEAD", "HEAD"),
        ("ManufacturerModelName", "\u5c71\u7530 MR", "MR"),
        ("ManufacturerModelName", "SOMATOM Definition AS+", "SOMATOM Definition"),
        ("ConvolutionKernel", "Br40d\\3", "Br40d\\3"), ("ConvolutionKernel", "QUENNEVAULT", ""),
        ("ImageType", "QUENNEVAULT", ""), ("ImageType", "ORIGINAL", "ORIGINAL"), ("Manufacturer", "SIEMENS", "SIEMENS"),
        ("EchoTime", "4.6", "4.6"), ("ScanningSequence", "QUENNEVAULT", ""), ("ScanningSequence", "GR", "GR"),
        ("ManufacturerModelName", "WU LI", ""),
    ):  # fmt: skip
        assert technical(keyword, text) == kept
