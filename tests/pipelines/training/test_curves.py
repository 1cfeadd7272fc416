"""Curves on a disk that has no room: MLflow's side is in tests/pipelines/release/test_on_a_server.py."""

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.training import curves
from pipelines.training.curves import Curves


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Curves]:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(curves, "deliver", lambda folder: None)
    monkeypatch.setattr(curves, "PATIENCE_S", 0.1)
    monkeypatch.setattr(curves, "ROOM_AGAIN_S", 0.05)
    found = Curves("train-1", "train", {})
    yield found
    found.abandoned = True
    found.ended.set()
    found.points.close()


@contextmanager
def room(points: Path, more: int) -> Iterator[None]:
    """The kernel takes `more` bytes, as at the end of a disk or a quota."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (points.stat().st_size + more, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def steps(points: Path) -> list[int]:
    return [json.loads(line)["step"] for line in points.read_text().splitlines() if line]


def test_no_point_is_lost_to_a_disk_that_is_full_for_a_while(made: Curves, caplog: pytest.LogCaptureFixture) -> None:
    points = made.folder / "points.jsonl"
    made.log(1, {"loss": 1.0})
    with room(points, 50):  # in the middle of a line
        for step in range(2, 50):
            made.log(step, {"loss": 1.0})
    assert not points.read_bytes().endswith(b"\n")
    made.log(50, {"loss": 1.0})
    assert steps(points) == list(range(1, 51))
    assert caplog.text.count("wait for room on the disk") == 1


def test_what_finds_no_room_until_the_end_is_counted(made: Curves, caplog: pytest.LogCaptureFixture) -> None:
    with room(made.folder / "points.jsonl", 0):
        made.log(1, {"loss": 1.0})
        made.log(2, {"loss": 1.0})
        with pytest.raises(OSError, match="too large"):  # the note of the end has no room either
            made.finish({"project": "full"})
    assert "2 points of the curves found no room on the disk" in caplog.text
