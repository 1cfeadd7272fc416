"""A request to stop is told from the death of those who would have made it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.work import environment

CHILD = """
import sys, time
from pathlib import Path
from pipelines.work.ancestry import Ancestors
ancestors = Ancestors()
print("ready", flush=True)
sys.stdin.readline()
Path(sys.argv[1]).write_text(str(ancestors.all_there()))
"""

MIDDLE = """
import os, subprocess, sys
marked = {**os.environ, sys.argv[1]: "mark"}
child = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[3]], env=marked, start_new_session=True)
child.wait()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_the_death_of_who_watches_is_noticed(killed: bool, tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = [sys.executable, "-c", MIDDLE, environment.SESSION, CHILD, str(told)]
    unmarked = {name: value for name, value in os.environ.items() if name != environment.SESSION}
    with subprocess.Popen(command, env=unmarked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        if killed:
            parent.kill()
            parent.wait()
        parent.stdin.write("\n")
        parent.stdin.flush()
        deadline = time.monotonic() + 60
        while not (told.exists() and told.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert told.read_text() == str(not killed)
