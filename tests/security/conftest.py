"""Another user of this machine (uid 65534), and a project whose servers run: what somebody without the login can do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.flows.conftest import MEDSEG, Project, eventually, with_prefects_tables

NOBODY = 65534
# Reads requests from stdin, prints each answer's status and text.
ASK = """
import json, sys, urllib.request, urllib.error
answers = []
for each in json.load(sys.stdin):
    body = each["body"] and each["body"].encode()
    request = urllib.request.Request(each["url"], body, each["headers"], method=each["method"])
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            answers.append([answer.status, answer.read().decode(errors="replace")])
    except urllib.error.HTTPError as error:
        answers.append([error.code, error.read().decode(errors="replace")])
print(json.dumps(answers))
"""
Stranger = Callable[..., str]


@dataclass(frozen=True)
class Ask:
    """A request. `authorization`: USER:PASSWORD, or none."""

    method: str
    url: str
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        headers = {"content-type": "application/json", **self.headers}
        return {"method": self.method, "url": self.url, "body": self.body, "headers": headers}


@pytest.fixture(scope="session")
def stranger() -> Stranger:
    """Runs a Python program, of the standard library only, as another user; gives what it prints."""
    if os.getuid() != 0:
        pytest.skip("only root can start a program as another user")

    def run(program: str, *arguments: str, stdin: str = "") -> str:
        ended = subprocess.run(
            [python, "-I", "-c", program, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd="/",
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            env={},
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    pythons = (sys.executable, "/usr/bin/python3")
    python = next((each for each in pythons if _starts(each)), None)
    if python is None:
        pytest.skip("no Python lies where another user can start it")
    return run


def _starts(python: str) -> bool:
    try:
        return not subprocess.run([python, "-c", ""], user=NOBODY, group=NOBODY, check=False, cwd="/").returncode
    except OSError:
        return False


def answers(requests: list[Ask], asked_by: Stranger | None = None) -> list[tuple[int, str]]:
    """Status and text of each answer; asked by us or by the other user."""
    stdin = json.dumps([request.plain() for request in requests])
    if asked_by is not None:
        printed = asked_by(ASK, stdin=stdin)
    else:
        command = [sys.executable, "-I", "-c", ASK]
        printed = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, timeout=60).stdout
    return [(status, text) for status, text in json.loads(printed)]


def statuses(requests: list[Ask], asked_by: Stranger | None = None) -> dict[str, int]:
    found = answers(requests, asked_by)
    return {f"{each.method} {each.url}": status for each, (status, _) in zip(requests, found, strict=True)}


@dataclass(frozen=True)
class Guarded:
    """A project with `medseg ui` running: its servers' addresses and login."""

    project: Project
    prefect: str
    mlflow: str
    login: str


@pytest.fixture(scope="package")
def guarded(prefects_tables: Path) -> Iterator[Guarded]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others; only the project's shall be
        Path(folder).chmod(0o755)
        yield from _serve(Path(folder) / "project", prefects_tables)


def _serve(root: Path, prefects_tables: Path) -> Iterator[Guarded]:
    # A database's address may hold a password; `timeout` stands for one.
    project = Project(root, {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/.medseg/mlflow.db?timeout=77"})
    for folder in (".medseg", "data/raw", "profiles"):
        (root / folder).mkdir(parents=True)
    project.write("data/raw/a", "a scan")
    project.write("dvc.yaml", "stages: {}\n")
    shutil.copy(REPOSITORY / "profiles/base.yaml", root / "profiles/base.yaml")
    with_prefects_tables(root, prefects_tables)
    for folder in (".medseg", "data"):
        (root / folder).chmod(0o755)  # as older versions made them
    ui = project.start(MEDSEG, "ui")
    eventually(lambda: "Ctrl-C" in project.read("out") or ui.poll() is not None, 180, "medseg ui is up")
    assert ui.poll() is None, project.read("out")
    said = dict(line.split(maxsplit=1) for line in project.read("out").splitlines())
    yield Guarded(project, said["Prefect"], said["MLflow"], project.read(".medseg/login").strip())
    ui.send_signal(signal.SIGTERM)
    assert ui.wait(timeout=60) == 128 + signal.SIGTERM
