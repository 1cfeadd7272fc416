"""The audit log: chained, whole after a kill, and what is altered, missing or moved is named."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.release import audit
from tests.conftest import REPOSITORY
from tests.pipelines.release import people

pytestmark = pytest.mark.usefixtures("release_project")
WRITER = """
import sys
from pipelines.release import audit
for number in range(int(sys.argv[2])):
    audit.append("evaluate", writer=sys.argv[1], number=number, padding="x" * 2000)
    print(number, flush=True)
"""


def write(count: int) -> list[bytes]:
    for number in range(count):
        audit.append("evaluate" if number % 2 else "train", cases=number)
    return audit.path().read_bytes().splitlines(keepends=True)


def writer(name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, name, str(count)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def broken() -> str:
    found = audit.verify()
    assert not found.ok
    assert found.first_broken is not None
    return found.first_broken


def test_lines_follow_each_other_and_are_read_by_event() -> None:
    sha256 = audit.append("train", weights_sha256="a")
    audit.append("evaluate", cases=3)
    first, second = audit.read()
    assert (first.number, first.event, first.facts, first.sha256) == (1, "train", {"weights_sha256": "a"}, sha256)
    assert (second.number, second.previous) == (2, sha256)
    assert [line.number for line in audit.read(("evaluate", "compare"))] == [2]
    assert audit.head() == audit.AuditHead(2, second.sha256, sha256)
    assert audit.verify() == audit.Verified(True, 2, 0, None)


def test_a_log_that_has_not_begun_is_whole() -> None:
    assert audit.head() == audit.AuditHead()
    assert list(audit.read()) == []
    assert audit.verify().ok


def test_lines_are_canonical_json_for_the_owner_alone() -> None:
    audit.append("ingest", patient="größe", scans={"train": 1})
    (line,) = audit.path().read_text().splitlines()
    assert line == json.dumps(json.loads(line), sort_keys=True, separators=(",", ":"))
    assert audit.path().stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [line.replace(b'"cases":3', b'"cases":9') for line in lines], "line 4 was altered"),
        (lambda lines: [*lines[:3], b"\n", *lines[4:]], "line 4 was altered"),
        (lambda lines: lines[:3] + lines[4:], "line 4 is missing or out of order: line 5 stands in its place"),
        (lambda lines: lines[1:], "line 1 is missing or out of order: line 2 stands in its place"),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], "line 4 is missing or out of order: line 5"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], "line 4 is missing or out of order: line 3"),
        (lambda lines: [*lines[:-1], lines[-1][:-1]], "line 6 was cut off in mid-write"),
    ],
)
def test_the_first_line_that_is_altered_missing_or_moved_is_named(
    change: Callable[[list[bytes]], list[bytes]], told: str
) -> None:
    audit.path().write_bytes(b"".join(change(write(6))))
    assert told in broken()


def test_a_line_that_is_replaced_by_another_valid_one_is_named() -> None:
    lines = write(3)
    others = list(lines)
    audit.path().unlink()
    for number in range(2):
        audit.append("evaluate", cases=number + 10)
    others[:2] = audit.path().read_bytes().splitlines(keepends=True)
    audit.path().write_bytes(b"".join(others))
    assert "line 2 was replaced" in broken()


def test_every_flipped_byte_is_found() -> None:
    whole = b"".join(write(3))
    draw = random.Random(0)
    for place in draw.sample(range(len(whole)), 200):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        audit.path().write_bytes(flipped)
        number = whole[:place].count(b"\n") + 1
        assert f"line {number}" in broken() or f"line {number + 1}" in broken()  # of a line's end: the next one


def test_reading_stops_at_what_is_broken() -> None:
    lines = write(6)
    audit.path().write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(audit.BrokenLogError, match="line 3 is missing"):
        list(audit.read(("evaluate",)))


def test_a_torn_line_is_kept_and_told_by_the_next_append(caplog: pytest.LogCaptureFixture) -> None:
    lines = write(3)
    audit.path().write_bytes(b"".join(lines)[:-40])
    assert "line 3 was cut off in mid-write; the next event mends that" in broken()
    audit.append("train", cases=4)
    assert audit.verify().ok
    assert "line 3 was cut off in mid-write" in caplog.text
    (torn,) = audit.read((audit.TORN,))
    assert torn.facts == {"text": lines[2][:-40].decode()}
    assert [line.event for line in audit.read()] == ["train", "evaluate", "torn", "train"]


def test_a_disk_that_is_full_in_mid_write_is_told_and_mended() -> None:
    """The kernel writes 50 bytes of the line, as at the end of a disk or a quota."""
    write(3)
    size = audit.path().stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, limits[1]))
        with pytest.raises(OSError, match="no space left"):
            audit.append("train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert audit.path().stat().st_size == size + 50
    audit.append("train")
    assert audit.verify().ok
    assert len([*audit.read((audit.TORN,))]) == 1


def test_two_writers_and_kills_in_mid_write_leave_it_whole() -> None:
    """One is killed again and again while the other goes on; what the killed one was told is written, is there."""
    steady = writer("steady", 300)
    told = {}
    draw = random.Random(0)
    for round_ in range(6):
        victim = writer(f"victim {round_}", 100_000)
        assert victim.stdout is not None
        victim.stdout.readline()
        time.sleep(draw.uniform(0, 0.05))
        victim.send_signal(signal.SIGKILL)
        told[f"victim {round_}"] = len(victim.communicate()[0].splitlines()) + 1
    steady.communicate()
    audit.append("after")
    assert steady.returncode == 0
    assert audit.verify().ok
    found = [line.facts for line in audit.read(("evaluate",))]
    assert [each["number"] for each in found if each["writer"] == "steady"] == list(range(300))
    for name, count in told.items():
        assert len([each for each in found if each["writer"] == name]) - count in (0, 1)


def test_an_append_to_a_log_whose_end_is_no_line_is_refused() -> None:
    write(2)
    audit.path().write_bytes(audit.path().read_bytes() + b"what somebody wrote\n")
    with pytest.raises(audit.BrokenLogError, match="its last line was altered"):
        audit.append("train")


def test_a_long_line_is_followed() -> None:
    audit.append("ingest", text="x" * 100_000)
    audit.append("train")
    assert audit.verify().lines == 2


class TestSignedHeads:
    """Chains alone can be written anew, or cut short; people's signatures cannot."""

    @pytest.fixture(autouse=True)
    def _signed(self, release_project: Path) -> None:
        write(4)
        people.begin()
        people.Version(1).request()

    def test_they_hold(self) -> None:
        assert audit.verify() == audit.Verified(True, 6, 2, None)

    def test_a_log_that_is_cut_short_is_found(self) -> None:
        lines = audit.path().read_bytes().splitlines(keepends=True)
        audit.path().write_bytes(b"".join(lines[:4]))
        assert "line 5 is missing: there were 5 when release/ledger/kidneys/000002.json was signed" in broken()

    def test_a_log_that_is_written_anew_from_some_line_on_is_found(self) -> None:
        lines = audit.path().read_bytes().splitlines(keepends=True)
        audit.path().write_bytes(b"".join(lines[:2]))
        write(8)
        assert "line 4, or one before, was written anew after release/ledger/kidneys/000001.json" in broken()

    def test_a_log_that_is_written_anew_as_a_whole_is_found(self) -> None:
        audit.path().unlink()
        write(8)
        assert "line 1 is missing, or was written anew: release/ledger/kidneys/000001.json" in broken()

    def test_a_log_that_is_gone_is_found(self) -> None:
        audit.path().unlink()
        assert "line 1 is missing" in broken()

    def test_the_log_of_another_machine_is_looked_into(self) -> None:
        """Its statements come by git; a copy of its log is put beside."""
        audit.path().rename(audit.path().with_name("other.jsonl"))
        write(2)
        assert audit.verify() == audit.Verified(True, 2, 2, None)

    def test_a_statement_that_is_altered_is_found(self) -> None:
        file = Path("release/ledger/kidneys/000002.json")
        file.write_text(file.read_text().replace('"version":1', '"version":2'))
        assert "000002.json was altered: it is not what line 6" in broken()

    def test_a_statement_that_is_missing_at_the_end_is_found(self) -> None:
        Path("release/ledger/kidneys/000002.json").unlink()
        assert "000002.json is missing" in broken()
