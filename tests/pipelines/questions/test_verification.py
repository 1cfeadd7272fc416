"""`medseg data verify` finds what changed under a finished project, and names no file."""

import os
from pathlib import Path

import pytest

from pipelines.questions.verification import verify
from pipelines.scans import manifest
from pipelines.stages import preprocess
from pipelines.work import project
from tests.pipelines.stages.test_preprocess import ingested


@pytest.fixture
def finished(cohort: Path) -> Path:
    ingested()
    preprocess.main()
    return cohort


def a_scan() -> manifest.Row:
    return manifest.read()[4]


def case_file(row: manifest.Row) -> Path:
    return project.CASES / row.split / f"{row.case_id}.safetensors"


def test_a_finished_project_is_as_it_was(finished: Path) -> None:
    found = verify()
    assert found["ok"]
    assert (found["scans"], found["files"], found["cases"], found["left_out"]) == (10, 20, 10, {})


@pytest.mark.parametrize("role", ["image", "label", "case"])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "bytes where"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"), "has other content"),
    ],
)
def test_a_lost_cut_or_changed_file_is_found(finished: Path, role: str, damage: object, told: str) -> None:
    row = a_scan()
    path = {"image": Path(row.images[0].path), "label": Path(row.labels[0].path), "case": case_file(row)}[role]
    damage(path)  # type: ignore[operator]
    found = verify()
    assert not found["ok"]
    (problem,) = found["problems"]
    assert problem["case_id"] == row.case_id
    assert told in problem["problem"]
    assert "patient" not in problem["problem"]
    assert "/" not in problem["problem"]


def test_a_change_that_hides_its_time_is_found_by_reading_again(finished: Path) -> None:
    path = Path(a_scan().images[0].path)
    before = path.stat()
    assert verify()["ok"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:  # same inode
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not verify(reread=True)["ok"]


def test_a_case_nobody_asked_for_is_found(finished: Path) -> None:
    row = a_scan()
    case_file(row).with_stem("acdc-stranger").write_bytes(case_file(row).read_bytes())
    (problem,) = verify()["problems"]
    assert problem["case_id"] == "acdc-stranger"
