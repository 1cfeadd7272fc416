"""The key: refused when absent, weak, open or inside the project; pseudonyms are stable and depend on it."""

import os
from pathlib import Path

import pytest

from pipelines.scans import key
from pipelines.scans.key import Pseudonyms


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("MEDSEG_ROOT", raising=False)
    monkeypatch.delenv(key.VARIABLE, raising=False)
    return tmp_path / "project"


def test_a_made_key_is_accepted_and_gives_the_same_pseudonyms(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = key.create(project.parent / "safe" / "key")
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv(key.VARIABLE, str(path))
    assert key.load().name("patient", "x") == key.load().name("patient", "x")
    with pytest.raises(ValueError, match="never overwritten"):
        key.create(path)


def refused(monkeypatch: pytest.MonkeyPatch, path: Path | None, content: bytes = b"", mode: int = 0o600) -> str:
    if path is not None:
        path.write_bytes(content)
        path.chmod(mode)
        monkeypatch.setenv(key.VARIABLE, str(path))
    with pytest.raises(ValueError, match=key.VARIABLE + "|inside the project") as error:
        key.load()
    return str(error.value)


def test_without_a_key_the_remedy_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = refused(monkeypatch, None)
    assert "MEDSEG_KEY_FILE is not set" in told
    assert "medseg data key" in told
    monkeypatch.setenv(key.VARIABLE, str(project.parent / "gone"))
    with pytest.raises(ValueError, match="No such file"):
        key.load()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"short", "5 characters, at least 32"),
        (b"", "0 characters"),
        (b"a" * 64, "0 bits of entropy"),
        (b"password" * 6, "bits of entropy, at least 128"),
        (b"0123456789abcdef" * 4, "bits of entropy, at least 128"),
        (b"1234567890" * 4, "bits of entropy, at least 128"),
    ],
)
def test_a_weak_key_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, told: str) -> None:
    message = refused(monkeypatch, project.parent / "key", content)
    assert told in message
    assert not content or content.decode() not in message


def test_a_key_that_others_can_read_or_that_lies_in_the_project_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = os.urandom(32).hex().encode()
    assert "mode 640" in refused(monkeypatch, project.parent / "key", good, 0o640)
    assert "inside the project" in refused(monkeypatch, project / "key", good)
    (project.parent / "link").symlink_to(project / "key")
    assert "inside the project" in refused(monkeypatch, project.parent / "link", good)
    with pytest.raises(ValueError, match="inside the project"):
        key.create(project / "new")


def test_pseudonyms_differ_by_kind_identifier_and_key() -> None:
    one, other = Pseudonyms(b"a" * 32), Pseudonyms(b"b" * 32)
    names = {each.name(kind, value) for each in (one, other) for kind in ("patient", "study") for value in ("1", "2")}
    assert len(names) == 8
    assert one.uid("1.2.3") == one.uid("1.2.3") != other.uid("1.2.3")
    assert one.uid("1.2.3").startswith("2.25.")
    assert len(one.uid("1.2.3")) <= 64
    assert -key.MAX_SHIFT_DAYS <= one.shift_days("p") < 0
    assert len({one.shift_days(str(n)) for n in range(200)}) > 150
