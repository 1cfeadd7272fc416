"""Sessions: whose they are, how long they last, how many there may be."""

from pathlib import Path

import pytest

from pipelines.service import monai_sessions
from pipelines.service.monai_sessions import PER_SENDER, Sessions


def folder(root: Path, name: str) -> Path:
    (root / name).mkdir()
    (root / name / "scan.nii").write_text(name)
    return root / name


def test_a_session_is_its_senders_and_can_be_used_again(tmp_path: Path) -> None:
    sessions = Sessions()
    key = sessions.add("one", folder(tmp_path, "a"))
    for copy in ("b", "c"):
        (tmp_path / copy).mkdir()
        sessions.copy("one", key, tmp_path / copy)
        assert (tmp_path / copy / "scan.nii").read_text() == "a"
    assert not sessions.knows("other", key)
    with pytest.raises(KeyError):
        sessions.copy("other", key, tmp_path)
    assert not sessions.remove("other", key)
    assert sessions.remove("one", key)
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "b" / "scan.nii").exists()


def test_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions()
    other = sessions.add("other", folder(tmp_path, "other"))
    keys = [sessions.add("one", folder(tmp_path, f"own-{number}")) for number in range(PER_SENDER + 2)]
    assert [sessions.knows("one", key) for key in keys] == [False] * 2 + [True] * PER_SENDER
    assert {path.name for path in tmp_path.iterdir()} == {
        "other",
        *(f"own-{each}" for each in range(2, PER_SENDER + 2)),
    }
    monkeypatch.setattr(monai_sessions, "EXPIRY_S", -1.0)
    sessions.add("third", folder(tmp_path, "third"))
    assert not sessions.knows("other", other)
    assert {path.name for path in tmp_path.iterdir()} == {"third"}
