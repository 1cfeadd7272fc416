"""Nothing that we start outlives us, and the lock belongs to the living."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import lock, processes
from tests.flows.conftest import eventually

# A child in a session of its own that a tether does not reach and SIGTERM does not end.
STUBBORN = """
import signal, subprocess, sys, time
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(300)"
subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
time.sleep(300)
"""
OWNER = f"""
import os, sys, time
from flows import processes
mark = processes.new_mark()
with processes.running([sys.executable, "-c", {STUBBORN!r}], os.environ, mark=mark):
    print(mark, flush=True)
    time.sleep(300)
"""
HOLDER = """
import sys, time
from flows import lock
with lock.held() as held:
    held.say(stage="train")
    print("held", flush=True)
    time.sleep(300)
"""


def test_ends_children_with_sessions_of_their_own_even_if_they_ignore_sigterm(tmp_path: Path) -> None:
    mark = processes.new_mark()
    with (
        (tmp_path / "out").open("wb") as out,
        processes.running([sys.executable, "-c", STUBBORN], os.environ, mark=mark, grace_s=0.5, stdout=out),
    ):
        eventually(lambda: (tmp_path / "out").read_text(), 10, "the stubborn child is up")
        assert len(processes.members(mark)) == 2
    assert not processes.members(mark)


def test_sigkill_of_the_owner_leaves_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        mark, up = owner.stdout.readline().strip(), owner.stdout.readline()
        assert up == "up\n"
        owner.kill()
        # the guardian: 3 s for the tethers, then SIGTERM, 5 s of grace, SIGKILL
        eventually(lambda: not processes.members(mark), 20, "the stubborn child is gone")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.setenv("MEDSEG_ROOT", str(tmp_path))
    return tmp_path


def test_only_one_holds_the_lock_and_the_others_learn_what_it_does(project: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        said = lock.holder()
        assert said is not None
        assert (said["pid"], said["stage"]) == (other.pid, "train")
        with pytest.raises(lock.BusyError, match=f"process {other.pid}, now in stage train"), lock.held():
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        started = time.monotonic()
        with lock.held():  # what a killed holder said does not count
            assert time.monotonic() - started < 5


def test_lock_may_be_taken_again_inside_itself(project: Path) -> None:
    with lock.held() as outer, lock.held() as inner:
        assert outer is inner
    assert lock.holder() is None


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 1, "stage": "train", "mark": "of-nobody"}'])
def test_stale_content_of_the_lock_confuses_nobody(project: Path, content: str) -> None:
    (project / ".medseg").mkdir()
    (project / ".medseg/lock").write_text(content)
    assert lock.holder() is None
    with lock.held():
        pass
