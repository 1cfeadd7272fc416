"""What is remembered is right or forgotten, never an error: a damaged file is begun anew."""

import logging
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.work import cache
from pipelines.work.cache import Cache
from pipelines.work.digests import remembered, sha256_of

WRITER = """
import sys
from contextlib import closing
from pathlib import Path
from pipelines.work.cache import Cache
with Cache(Path(sys.argv[1]), "seen", ("value",)) as cache:
    for number in range(200):
        cache.put(f"{sys.argv[2]}-{number}", number)
"""


def opened(folder: Path) -> Cache:
    return Cache(folder / "cache.sqlite", "seen", ("value", "more"))


def filled(folder: Path, count: int = 200) -> Path:
    with opened(folder) as cache:
        for number in range(count):
            cache.put(str(number), number, b"x" * 100)
    return folder / "cache.sqlite"


def test_what_was_put_is_got_again_and_the_last_value_holds(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    with opened(tmp_path) as cache:
        cache.put("2", 7, b"")
        assert [cache.get(key) for key in ("1", "2", "3")] == [(1, b"x" * 100), (7, b""), None]


def test_an_entry_is_kept_though_the_process_that_made_it_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), opened(tmp_path) as cache:  # noqa: PT012
        cache.put("key", 1, b"")
        raise RuntimeError
    with opened(tmp_path) as cache:
        assert cache.get("key") == (1, b"")


@pytest.mark.parametrize("damage", ["no database", "cut", "overwritten", "other columns"])
def test_a_damaged_file_is_set_aside_and_begun_anew(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = filled(tmp_path)
    content = path.read_bytes()
    if damage == "no database":
        path.write_text("of something else\n" * 99)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "overwritten":
        path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))  # all but the first page
    else:
        path.unlink()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE seen (key TEXT PRIMARY KEY, value)")
        other.close()
    size = path.stat().st_size
    with caplog.at_level(logging.WARNING), opened(tmp_path) as cache:
        known = [cache.get(str(number)) for number in range(200)]
        cache.put("new", 1, b"")
        assert cache.get("new") == (1, b"")
    assert set(known) <= {None, *((number, b"x" * 100) for number in range(200))}
    assert known[-1] is None
    assert path.with_name("cache.sqlite.damaged").stat().st_size == size
    (line,) = caplog.messages
    assert line.startswith(f"{path} is damaged (")
    with opened(tmp_path) as cache:
        assert cache.get("new") == (1, b"")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cache\.sqlite: unable to open database file"):
        opened(tmp_path / "missing").get("key")


def test_several_processes_remember_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    with Cache(path, "seen", ("value",)) as cache:
        assert all(cache.get(f"{name}-{number}") == (number,) for name in "abc" for number in range(200))


def test_a_file_is_read_again_only_if_it_changed_or_on_request(tmp_path: Path) -> None:
    scan = tmp_path / "scan"
    scan.write_text("first")
    first = sha256_of(scan)
    with remembered(tmp_path / "digests.sqlite") as digests:
        assert digests.of(scan) == first
        digests.remember(scan, "told")
        assert digests.of(scan) == "told"
        assert digests.of(scan, reread=True) == first
        scan.write_text("other")
        assert digests.of(scan) == sha256_of(scan) != first


@pytest.mark.parametrize("content", [b"garbage" * 1000, None])
def test_a_damaged_database_of_another_program_is_set_aside_and_a_sound_one_is_left(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "prefect.db"
    cache.mend(path, "the history")  # none yet
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE run (name)")
        database.executemany("INSERT INTO run VALUES (?)", [("x" * 100,)] * 1000)
        database.commit()
    whole = path.read_bytes()
    cache.mend(path, "the history")
    assert path.read_bytes() == whole
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    cache.mend(path, "the history")
    assert [file.name for file in tmp_path.iterdir()] == ["prefect.db.damaged"]
    assert "it held the history): begun anew, kept as prefect.db.damaged" in caplog.text
