"""Preprocessing, killed: SIGKILL the stage at random moments, let it go on, compare every byte of its output.

Run     python -m benchmarks.preprocess_drills [--count 10] [--seed 0]        about 2 min on 2 cores
Prints  a line per drill: when it was killed, what was finished then, how many cases the next run had to make, whether
        data/cases is equal to the byte to an undisturbed run's; then how many of how many. Exit code 1 unless all.

The stage and its workers get SIGKILL at once: nothing can clean up. Every second drill strikes while finished cases are
being moved to their names; the others at any moment from the first finished case on.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.test_pipeline import call, copy_project, set_params

CASES = Path("data/cases")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print("preparing: phantoms and an undisturbed run", flush=True)
        project = prepare(Path(scratch) / "project")
        verdicts = []
        for line, same in drill(project, arguments.count, arguments.seed):
            print(line, flush=True)
            verdicts.append(same)
    print(f"{sum(verdicts)} of {len(verdicts)} runs ended byte-equal to the undisturbed one")
    return 0 if all(verdicts) else 1


def prepare(folder: Path, cases_per_layout: int = 30) -> Path:
    """A small project, ingested and planned."""
    project = copy_project(folder)
    set_params(project, **{"ingest.phantom.cases_per_layout": cases_per_layout, "ingest.phantom.size": 48})
    for stage in ("inventory", "deidentify", "ingest", "plan"):
        call(project, sys.executable, "-m", "pipelines", stage)
    return project


def drill(project: Path, count: int, seed: int) -> Iterator[tuple[str, bool]]:
    """A line and a verdict per drill."""
    rng = random.Random(seed)
    start = time.monotonic()
    call(project, sys.executable, "-m", "pipelines", "preprocess")
    seconds = time.monotonic() - start
    expected = content(project)
    for number in range(1, count + 1):
        shutil.rmtree(project / CASES)
        moment = kill_once(project, rng, seconds, while_moving=number % 2 == 0)
        told = call(project, sys.executable, "-m", "pipelines", "preprocess").stdout
        made = re.search(r"(\d+) cases made, (\d+) as they were", told)
        same = content(project) == expected
        verdict = "equal to the byte" if same else "DIFFERENT"
        rest = f"the next run made {made[1]}, kept {made[2]}" if made else told
        yield f"drill {number:2d}: killed {moment}; {rest}; {verdict}", same


def kill_once(project: Path, rng: random.Random, seconds: float, while_moving: bool) -> str:
    """Where it struck, in words."""
    with (project / "preprocess.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "preprocess"],
            cwd=project, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(project)},
        )  # fmt: skip
    wait_for(process, project / CASES / ("index.csv" if while_moving else ".unfinished"))
    time.sleep(rng.uniform(0, 0.01 if while_moving else 0.25 * seconds))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    waiting = len([path for path in (project / CASES).glob(".unfinished/*") if not path.name.startswith(".")])
    moved = len(list((project / CASES).rglob("*.safetensors")))
    return f"with {waiting} finished and {moved} moved to their names"


def wait_for(process: subprocess.Popen[bytes], path: Path) -> None:
    while process.poll() is None and not path.exists():
        time.sleep(0.001)


def content(project: Path) -> dict[str, str]:
    """Every file of the output, hidden ones too -> digest."""
    files = sorted(path for path in (project / CASES).rglob("*") if path.is_file())
    return {str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    sys.exit(main())
