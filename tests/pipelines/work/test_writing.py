"""An output is complete or absent, whoever is killed and whoever else writes it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.work.writing import replacing, write_json

# Writes half of a file and of a folder, says so, waits for a line, writes the other half.
WRITER = """
import sys
from pathlib import Path
from pipelines.work.writing import replacing
folder, word = Path(sys.argv[1]), sys.argv[2]
with replacing(folder / "file") as file, replacing(folder / "out") as out:
    out.mkdir()
    for path in (file, out / "part"):
        path.write_text(word)
    print("half", flush=True)
    sys.stdin.readline()
    for path in (file, out / "part"):
        path.write_text(word + word)
"""


def writer(folder: Path, word: str) -> subprocess.Popen[str]:
    """A process that has written half."""
    command = [sys.executable, "-c", WRITER, str(folder), word]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


def test_what_fails_leaves_nothing_and_what_ends_well_replaces(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(RuntimeError), replacing(target) as folder:  # noqa: PT012
        folder.mkdir()
        (folder / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for content in ("first", "second"):
        with replacing(target) as folder:
            folder.mkdir()
            (folder / content).write_text(content)
    assert [path.name for path in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_keeps_what_was_there(tmp_path: Path) -> None:
    write_json(tmp_path / "file", [1])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", [float("nan")])
    assert json.loads((tmp_path / "file").read_text()) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with writer(tmp_path, "lost") as killed:
        killed.send_signal(signal.SIGKILL)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 2
    others = {f".{killed.pid}-00000000.partial.file", ".file.partial", "another.file"}  # not this host's; not ours
    for name in others:
        (tmp_path / name).touch()
    write_json(tmp_path / "file", [])
    with replacing(tmp_path / "out") as folder:
        folder.mkdir()
    assert {path.name for path in tmp_path.iterdir()} == others | {"file", "out"}


def test_two_at_once_write_each_its_own_and_the_last_one_to_be_whole_stays(tmp_path: Path) -> None:
    with writer(tmp_path, "first") as first, writer(tmp_path, "second") as second:
        for process, word in ((second, "second"), (first, "first")):
            process.communicate("\n")
            assert process.returncode == 0
            assert (tmp_path / "file").read_text() == (tmp_path / "out/part").read_text() == word + word
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_a_folder_that_another_process_puts_there_meanwhile_is_replaced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, target = Path.rename, tmp_path / "out"

    def contested(self: Path, to: Path) -> Path:
        """Another process puts its folder there between our two renames, once."""
        if to == target and not (tmp_path / "theirs").exists():
            (tmp_path / "theirs").touch()
            target.mkdir()
            (target / "theirs").touch()
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", contested)
    with replacing(target) as folder:
        folder.mkdir()
        (folder / "ours").touch()
    assert [path.name for path in target.iterdir()] == ["ours"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]


def test_a_link_replaces_a_link_and_neither_target_is_touched(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").touch()
        with replacing(tmp_path / "link") as temporary:
            temporary.symlink_to(tmp_path / name, target_is_directory=True)
    assert (tmp_path / "link").readlink() == tmp_path / "other"
    with replacing(tmp_path / "link") as folder:
        folder.mkdir()
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "one/kept").exists()
    assert (tmp_path / "other/kept").exists()


def test_the_temporary_name_ends_as_the_final_one(tmp_path: Path) -> None:
    with replacing(tmp_path / "scan.nii.gz") as temporary:
        assert temporary.name.endswith(".scan.nii.gz")
        assert temporary.name.startswith(f".{os.getpid()}-")
        temporary.touch()
