"""What the reading commands print for people."""

from dataclasses import asdict

import pytest

from flows import show_data
from pipelines.scans.manifest import Row


def test_scans_are_listed_with_their_notes_and_reasons(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    row = Row("acdc-1", "1", "acdc", "train", ["CINE"], [], [])
    rows = [
        row,
        Row(**{**asdict(row), "case_id": "acdc-2", "notes": ["slices: 3, below 5", "spacing: 15 mm"]}),
        Row(
            **{**asdict(row), "case_id": "acdc-3", "split": "", "quarantined": "label is empty", "notes": ["slices: 3"]}
        ),
    ]
    aside = Row(**{**asdict(row), "case_id": "dicom-4", "split": "", "quarantined": "set aside: a localiser"})
    show_data.scans([asdict(each) for each in [*rows, aside]])
    told = capsys.readouterr().out
    assert "slices: 3, below 5; spacing: 15 mm" in told
    assert "label is empty" in told
    assert told.splitlines()[-1] == "4 scans, 1 quarantined, 1 set aside, 1 with notes"


def test_a_file_that_is_called_like_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("acdc-1", "1", "acdc", "", ["CINE"], [], [], quarantined="a[/b]c.nii.gz: file is missing")
    show_data.scans([asdict(row)])
    assert "a[/b]c.nii.gz" in capsys.readouterr().out


def test_packed_files_are_named_and_many_of_them_counted(capsys: pytest.CaptureFixture[str]) -> None:
    show_data.packed([f"{k:02d}.dcm.gz" for k in range(12)])
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("12 packed files")
    assert told[1:] == [*(f"  {k:02d}.dcm.gz" for k in range(10)), "  and 2 more"]
    show_data.packed([])
    assert capsys.readouterr().out == ""
