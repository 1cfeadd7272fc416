"""An empty project to release from."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.pipelines.release.people import key


@pytest.fixture
def release_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder; a project, and nothing is in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    return tmp_path


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent that holds ann's key, and her private key is nowhere else."""
    socket = Path(mkdtemp(prefix="agent-")) / "socket"  # a path of a socket is 107 characters at most
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.01)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        subprocess.run(["ssh-add", "-q", key("ann")], check=True)
        hidden = key("ann").rename(tmp_path / "hidden")
        yield
        hidden.rename(key("ann"))
    finally:
        process.terminate()
        process.wait()
