"""The page a person looks at: flagged scans first, no name of a patient, the same bytes for the same rows."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.intake import examination, finding, listing
from pipelines.pages import contact_sheet
from pipelines.scans import scan_files, vocabulary
from pipelines.scans.manifest import File, Row
from pipelines.scans.volume_geometry import Volume
from pipelines.work.digests import sha256_of
from tests.conftest import save


@pytest.fixture
def rows(cohort: Path) -> list[Row]:
    """Ten scans; one patient's folder bears a name, one scan is noted, one refused but readable, one unreadable."""
    (cohort / "Doe Jane 1970").mkdir()
    shutil.move(cohort / "patient009", cohort / "Doe Jane 1970" / "patient009")
    (cohort / "patient001/patient001_frame01.nii.gz").write_bytes(b"")
    listed = listing.take(cohort, cohort.parent / "digests.sqlite")
    found = examination.examine(finding.find(Path("data/raw"), listed, ("acdc",)))
    named = next(row for row in found if "Jane" in row.files[0].path)
    refused = f"{named.files[0].path}: duplicate case, the same as {named.files[0].path}; 12 of 40 slices"
    found[found.index(named)] = replace(named, quarantined=refused)
    found[5] = replace(found[5], notes=["slices: 3, below 5"])
    return found


def test_the_page_lists_what_was_found_and_names_nobody(rows: list[Row], tmp_path: Path) -> None:
    contact_sheet.write(tmp_path / "sheet", rows, 24)
    page = (tmp_path / "sheet/index.html").read_text()
    assert "10 scans, 2 quarantined, 1 with notes; 9 drawn" in page
    assert "slices: 3, below 5" in page
    assert "duplicate case, the same as (file) 12 of 40 slices" in page
    assert "it is empty" in page
    for word in ("Doe", "Jane", "1970", "patient0", ".nii"):
        assert word not in page
    assert sorted(path.name for path in (tmp_path / "sheet").iterdir()) == ["acdc.png", "index.html"]


def test_flagged_scans_come_first_and_the_number_is_capped(rows: list[Row], tmp_path: Path) -> None:
    chosen = contact_sheet.choose(rows, 4)
    assert [bool(row.quarantined) for row in chosen] == [True, False, False, False]
    assert [bool(row.notes) for row in chosen] == [False, True, False, False]
    assert [row.case_id for row in chosen[2:]] == sorted(row.case_id for row in chosen[2:])
    contact_sheet.write(tmp_path / "few", rows, 4)
    contact_sheet.write(tmp_path / "many", rows, 24)
    few, many = _size(tmp_path / "few/acdc.png"), _size(tmp_path / "many/acdc.png")
    assert few[0] == many[0]
    assert few[1] * 3 == many[1]
    contact_sheet.write(tmp_path / "none", rows, 0)
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["index.html"]


def test_the_same_rows_give_the_same_bytes(rows: list[Row], tmp_path: Path) -> None:
    for folder in ("one", "two"):
        contact_sheet.write(tmp_path / folder, rows, 24)
    for name in ("acdc.png", "index.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_outlines_lie_where_the_label_lies(tmp_path: Path) -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[8:12, 8:12, 8:12] = 3
    image = np.arange(8000, dtype=np.int16).reshape(label.shape)
    picture = drawn(_row(save(tmp_path / "i.nii.gz", image), save(tmp_path / "l.nii.gz", label)))
    size, voxel = contact_sheet.PLANE_PX, contact_sheet.PLANE_PX / 20
    for plane in range(3):
        columns = slice(plane * size, (plane + 1) * size)
        outlined = np.argwhere((picture[:size, columns] == vocabulary.default()["left_ventricle"].colour).all(axis=2))
        assert outlined.min() >= 8 * voxel
        assert outlined.max() < 12 * voxel
        assert 4 * voxel <= len(outlined) <= 16 * voxel


def test_bright_corner_is_up_and_right_in_every_plane(tmp_path: Path) -> None:
    array = np.zeros((20, 20, 20), np.int16)
    array[10:, 10:, 10:] = 100
    array[:10, :10, :10] = 40
    picture = drawn(_row(save(tmp_path / "image.nii.gz", array), None))
    size = contact_sheet.PLANE_PX
    for plane in range(3):
        shown = picture[:size, plane * size : (plane + 1) * size].mean(axis=2)
        assert shown[: size // 2, size // 2 :].mean() > 200
        assert shown[size // 2 :, : size // 2].mean() < 20


def drawn(row: Row) -> np.ndarray:
    """(H, W, 3), uint8."""
    picture = contact_sheet.draw((row, []))
    assert picture is not None
    return np.asarray(picture)


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def _row(image: Path, label: Path | None) -> Row:
    paths = {"CINE": image, **({"label": label} if label else {})}
    files = [File(role, path.as_posix(), sha256_of(path), path.stat().st_size, "acdc") for role, path in paths.items()]
    return Row("acdc-1", "1", "acdc", "train", ["CINE"], files, ["left_ventricle"], shape=[20, 20, 20])


def test_a_picture_that_does_not_fit_or_whose_worker_is_killed_is_left_out(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = scan_files.read

    def killed_at(row: Row, file: File) -> Volume:
        if "patient003" in file.path:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(row, file)

    monkeypatch.setattr(scan_files, "read", killed_at)
    large = [replace(row, shape=[4096, 4096, 64]) if "patient005" in row.files[0].path else row for row in rows]
    contact_sheet.write(tmp_path / "sheet", large, 24, memory_gib=1.0)
    assert "7 drawn" in (tmp_path / "sheet/index.html").read_text()
    told = [record.message.partition(" is not drawn: ")[2] for record in caplog.records]
    assert sorted(reason[:10] for reason in told) == ["its proces", "needs 15 G"]
