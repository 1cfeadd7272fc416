"""How far work is: told now and then, with the time that is left."""

import logging
import time
from collections.abc import Iterator

import pytest

from pipelines.work import progress
from pipelines.work.progress import Countdown, duration, track


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "monotonic", found.monotonic)
    caplog.set_level(logging.INFO)
    return found


def test_at_most_a_line_in_five_seconds_and_one_at_the_end(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def work() -> Iterator[int]:
        for number in range(12):
            clock.now += 1
            yield number

    assert list(track(work(), 12, "verify")) == list(range(12))
    assert caplog.messages == ["verify 5/12, 0:07 left", "verify 10/12, 0:02 left", "verify 12/12, 0:00 left"]


def test_what_is_soon_done_says_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    assert list(track(iter("abc"), 3, "verify")) == ["a", "b", "c"]
    assert list(track(iter(()), 0, "verify")) == []
    assert caplog.messages == []


def test_time_left_is_told_by_work_and_not_by_count(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    told = Countdown("preprocess", 10, work=100.0)
    clock.now = 60
    told.advance(75)  # the largest first
    assert caplog.messages == ["preprocess 1/10, 0:20 left"]


def test_durations_are_short_to_read() -> None:
    assert [duration(seconds) for seconds in (0, 9.6, 75.2, 4000, 90061)] == [
        "0:00", "0:10", "1:15", "1:06:40", "25:01:01",
    ]  # fmt: skip


def test_what_is_done_now_is_a_line_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("one", "two", ""):
        progress.tell(line)
    assert capsys.readouterr().err == "one\ntwo\n"


def test_what_is_done_now_overwrites_itself_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for line in ("one", "two", ""):
        progress.tell(line)
    assert capsys.readouterr().err == "\r\033[Kone\r\033[Ktwo\r\033[K"
