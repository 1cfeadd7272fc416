"""A real run over DICOM, with the real DVC, and then every byte of it: nothing that identifies has passed.

On made-up series always; on real ones where $MEDSEG_TEST_DATA names a folder that holds `dicom/Study1`.
"""

import gzip
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK

from pipelines.questions.folder_check import check
from pipelines.scans import key
from tests.pipelines.dicom import dicom_files as files
from tests.test_pipeline import call, copy_project, set_params

STUDY = Path(os.environ.get("MEDSEG_TEST_DATA", "/nowhere")) / "dicom" / "Study1"
needs_study = pytest.mark.skipif(not STUDY.is_dir(), reason="MEDSEG_TEST_DATA names no folder with dicom/Study1")


def prepared(folder: Path, monkeypatch: pytest.MonkeyPatch, raw: Path) -> Path:
    """A project that reads DICOM from `raw`, with a key."""
    folder.mkdir()
    project = copy_project(folder / "project")
    set_params(project, **{"data.sources": ["dicom"], "preprocess.spacing_mm.default": [5.0, 3.0, 3.0]})
    (project / "data").mkdir()
    (project / "data" / "raw").symlink_to(raw, target_is_directory=True)
    monkeypatch.setenv(key.VARIABLE, str(key.create(folder / "key")))
    return project


def every_byte(project: Path, log: str) -> bytes:
    """All that a run wrote, names included, gzip opened and databases read row by row; lower case."""
    parts = [log.encode()]
    for path in project.rglob("*"):
        relative = path.relative_to(project)
        if ".git" in relative.parts or "tests" in relative.parts or not path.is_file() or "raw" in relative.parts:
            continue
        content = path.read_bytes()
        parts += [str(relative).encode(), content]
        if content[:2] == b"\x1f\x8b":
            parts.append(gzip.decompress(content))
        if content.startswith(b"SQLite format 3\0"):
            with closing(sqlite3.connect(path)) as database:
                parts.append("\n".join(database.iterdump()).encode())
    return b"\n".join(parts).lower()


def identifying(raw: Path) -> set[str]:
    """Names, ids, dates and UIDs of the original headers, and the series' folders; independent of the audit's code."""
    found = set()
    for path in (path for path in raw.rglob("*.dcm") if path.name != "broken.dcm"):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        for element in dataset.iterall():
            for value in element.value if element.VM > 1 else [element.value]:
                text = str(value)
                if element.VR == "PN":
                    found |= {part for part in text.split("^") if len(part) > 4} | {text}
                if element.VR == "DA" and len(text) == 8:
                    found |= {text, f"{text[:4]}-{text[4:6]}-{text[6:]}", f"{text[6:]}.{text[4:6]}.{text[:4]}"}
                if element.VR == "UI" and not text.startswith("1.2.840.10008."):
                    found.add(text)
                if element.keyword in ("PatientID", "AccessionNumber", "InstitutionName", "StationName"):
                    found.add(text)
        found.add(path.parent.name)
    return {text.lower() for text in found if len(text) > 4}


def check_nothing_passed(project: Path, raw: Path, log: str, unread: int = 0) -> None:
    written = every_byte(project, log)
    secrets = identifying(raw)
    assert len(secrets) > 30
    assert not [secret for secret in secrets if secret.encode() in written]
    audit = json.loads(call(project, "medseg", "data", "audit-phi", "--json").stdout)
    assert audit["ok"]
    assert audit["dicom_files"] > 0
    assert audit["unread"] == unread


def test_a_run_over_dicom_leaves_nothing_that_identifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "Infirmary"
    voxels = files.voxels(8, 24, 24)
    for number in range(3):
        folder = raw / f"Quillfeather Zebulon {number}" / "CT"
        files.series(folder, voxels + number, patient=f"{files.PATIENT}{number}", study=str(number))
    (folder / "broken.dcm").write_bytes(b"Quillfeather^Zebulon")
    (raw / "Quillfeather letter.txt").write_text("Dear Dr. Vandersloot")
    project = prepared(tmp_path / "p", monkeypatch, raw)
    set_params(project, **{"ingest.max_quarantined_fraction": 0.5})
    done = call(project, "dvc", "repro", "preprocess")
    scans = json.loads(call(project, "medseg", "data", "ls", "--json").stdout)["scans"]
    assert sorted(scan["quarantined"][-45:] for scan in scans if scan["quarantined"]) == [
        "neither the magic word nor a first element of one"[-45:]
    ]
    assert len(scans) == 4
    check_nothing_passed(project, raw, done.stdout + done.stderr, unread=1)
    case = next(scan["case_id"] for scan in scans if not scan["quarantined"])
    told = call(project, "medseg", "data", "whereis", case).stdout.splitlines()
    assert len(told) == 8
    assert all("Quillfeather" in line for line in told)
    refused = next(scan["quarantined"] for scan in scans if scan["quarantined"]).split()[1].rstrip(":")
    assert call(project, "medseg", "data", "whereis", refused).stdout.strip().endswith("broken.dcm")
    again = call(project, "dvc", "repro", "preprocess")
    assert "Running stage 'deidentify'" not in again.stdout


def test_check_shows_dicom_without_a_key_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(key.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    files.series(tmp_path / "raw" / "s", files.voxels(6))
    (tmp_path / "raw" / "s" / "broken.dcm").write_bytes(b"no scan")
    before = sorted(tmp_path.rglob("*"))
    scans = check(tmp_path / "raw")
    assert sorted(tmp_path.rglob("*")) == before
    assert [(scan["modalities"], bool(scan["quarantined"])) for scan in scans] == [([], True), (["CT"], False)]


def test_without_a_key_the_run_stops_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.series(tmp_path / "raw" / "s")
    project = prepared(tmp_path / "p", monkeypatch, tmp_path / "raw")
    monkeypatch.delenv(key.VARIABLE)
    done = call(project, "python", "-m", "pipelines", "inventory", expect=1)
    assert "medseg data key NEWFILE" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (project / "data" / "inventory.parquet").exists()


@needs_study
def test_a_real_study_is_read_as_simpleitk_reads_it_and_nothing_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = prepared(tmp_path / "p", monkeypatch, STUDY)
    done = call(project, "dvc", "repro", "preprocess")
    records = [json.loads(path.read_text()) for path in (project / "data/deidentified").rglob("*.json")]
    assert len(records) == len(list(STUDY.iterdir()))
    roles = {}
    pseudonyms = key.Pseudonyms(Path(os.environ[key.VARIABLE]).read_bytes().strip())
    for folder in STUDY.iterdir():
        reader = SimpleITK.ImageSeriesReader()
        uid = reader.GetGDCMSeriesIDs(str(folder))[0]
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), uid))
        expected = reader.Execute()
        (record,) = [each for each in records if each["series"] == pseudonyms.name("series", uid)]
        (volume,) = record["volumes"]
        found = nib.load(project / "data/deidentified" / record["patient"] / volume["image"])
        assert np.array_equal(np.asarray(found.dataobj).transpose(2, 1, 0), SimpleITK.GetArrayFromImage(expected))
        for index in np.ndindex(2, 2, 2):  # every corner of the grid
            corner = [n * (size - 1) for n, size in zip(index, expected.GetSize(), strict=True)]
            place = np.array(expected.TransformIndexToPhysicalPoint(corner)) * (-1, -1, 1)
            assert np.abs(found.affine[:3] @ [*corner, 1] - place).max() < 1e-2
        roles[folder.name.split("-")[1] if "-" in folder.name else "crop"] = volume["role"]
    assert roles == {"T1post": "T1CE", "T1prereg": "T1", "FLAIRreg": "FLAIR", "T2reg": "T2", "crop": "MR"}
    scans = json.loads(call(project, "medseg", "data", "ls", "--json").stdout)["scans"]
    assert sorted(scan["modalities"] for scan in scans) == [["FLAIR", "T1", "T1CE", "T2"], ["MR"]]
    check_nothing_passed(project, STUDY, done.stdout + done.stderr)
