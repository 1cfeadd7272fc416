"""15,000 scans: what the project costs when nothing is new, and when one scan is.

Run     python -m benchmarks.scale [--scans 15000] [--keep DIR]        about 10 CPU minutes, 1 GB in a temporary folder
Prints  a line per step: wall and CPU seconds, peak memory; bounds are beside those that have one. Exit code 1 if one is
        broken.

Two thirds are MR in the ACDC layout, one third CT in the KiTS layout, 16 x 16 x 8 voxels and all different, so that
what is measured is the bookkeeping and not the voxels. Steps are run as a user runs them, through DVC.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from tests.test_pipeline import BIN, copy_project, set_params

SHAPE = (16, 16, 8)
# Runs a command and tells what it and its children cost; small itself, since a child's peak counts from the fork on.
PROBE = """
import json, resource, subprocess, sys
returncode = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"cpu_s": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024}))
sys.exit(returncode)
"""


@dataclass(frozen=True)
class Cost:
    wall_s: float
    cpu_s: float
    peak_mib: float
    told: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=15_000)
    parser.add_argument("--keep", type=Path, help="make the project here and leave it there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        return measure(arguments.keep or Path(scratch) / "project", arguments.scans)


def measure(folder: Path, scans: int) -> int:
    project = prepare(folder, scans)
    held = []
    for stage in ("inventory", "deidentify", "ingest", "plan", "preprocess"):
        step(project, f"dvc repro {stage}, all new", "dvc", "repro", "--single-item", stage)
    verify = ["medseg", "data", "verify"]
    step(project, "medseg data verify, first", *verify)
    warm = step(project, "medseg data verify, warm", *verify)
    held.append(bound("verify, warm: wall seconds", warm.wall_s, 20))
    step(project, "dvc repro preprocess, nothing new", "dvc", "repro", "preprocess")
    status = step(project, "medseg status", "medseg", "status", "--json")
    held.append(bound("status: wall seconds", status.wall_s, 5))
    held += [bound("manifest code: MiB", cost.peak_mib, 500) for cost in (warm, status, manifest_code(project))]
    add(project, scans, scans)
    one = step(project, "dvc repro preprocess, one new scan", "dvc", "repro", "preprocess")
    made = re.search(r"(\d+) cases made, (\d+) as they were", one.told)
    held.append(bound("one new scan: cases made", float(made[1]) if made else float("nan"), 1))
    return 0 if all(held) else 1


def prepare(folder: Path, scans: int) -> Path:
    project = copy_project(folder)
    set_params(project, **{"data.sources": ["acdc", "kits"], "preprocess.spacing_mm": {"default": [1.0, 1.0, 1.0]}})
    start = time.monotonic()
    for number in range(scans):
        add(project, number, scans)
    print(f"{scans} scans written in {time.monotonic() - start:.0f} s", flush=True)
    return project


def add(project: Path, number: int, scans: int) -> None:
    """Write scan `number`: noise, with a block of every structure at a place of its own."""
    rng = np.random.default_rng(number)
    label = np.zeros(SHAPE, np.uint8)
    x, y = rng.integers(1, 6, 2)
    label[x : x + 3, y : y + 9, 2:6], label[x + 3 : x + 5, y : y + 9, 2:6], label[x + 5 : x + 8, y : y + 9, 2:6] = (
        1,
        2,
        3,
    )
    image = rng.normal(40, 60, SHAPE).astype(np.int16) + 100 * label.astype(np.int16)
    if number % 3 == 0 or number >= scans:
        folder = project / "data/raw/kits" / f"case_{number:05d}"
        names = ("imaging.nii", "segmentation.nii")
    else:
        patient = f"patient{number // 3:05d}"
        folder = project / "data/raw/acdc" / patient
        names = (f"{patient}_frame{number % 3:02d}.nii", f"{patient}_frame{number % 3:02d}_gt.nii")
        image = np.abs(image) + 1
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, (image, label), strict=True):
        (folder / name).write_bytes(nib.Nifti1Image(array, np.eye(4)).to_bytes())


def manifest_code(project: Path) -> Cost:
    """Reading, listing and digesting the manifest, alone in a process."""
    code = "from pipelines.scans import manifest; manifest.as_records(); manifest.read(); manifest.digest()"
    return step(project, "manifest: listing, reading, digest", "python", "-c", code)


def step(project: Path, name: str, *command: str) -> Cost:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(project)}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *command],
        cwd=project, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    wall_s = time.monotonic() - start
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    *told, cost = done.stdout.splitlines()
    found = json.loads(cost)
    print(f"{name:<40} {wall_s:7.1f} s wall {found['cpu_s']:7.1f} s CPU {found['peak_mib']:6.0f} MiB peak", flush=True)
    return Cost(wall_s, found["cpu_s"], found["peak_mib"], "\n".join(told))


def bound(name: str, found: float, most: float) -> bool:
    held = found <= most
    print(f"  {name} {found:.3g}, at most {most:g}: {'held' if held else 'BROKEN'}", flush=True)
    return held


if __name__ == "__main__":
    sys.exit(main())
