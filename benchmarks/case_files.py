"""15,000 case files: what opening them costs, and what a loader that is spawned is handed.

Run     python -m benchmarks.case_files [--files 15000]        about a CPU minute, 1 GB in a temporary folder
Prints  a line per bound: opening within 5 s and 1 GiB, no descriptor kept; exit code 1 if one is broken

Files are of 16^3 voxels with the points of two structures, and all different; the page cache is warm. What is measured
is opening, which does not look at voxels: those of a real file would be 1,000 times as many.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.scale import bound
from model.data import casefile
from model.data.casefile import Case, CaseRecord

SIZE, POINTS = 16, 2000
OPEN = """
import json, pickle, resource, sys, time
from pathlib import Path
from model.data.casefile import open_cases
start = time.monotonic()
cases = open_cases(Path(sys.argv[1]), "train")
seconds = time.monotonic() - start
descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
start = time.monotonic()
pickled = pickle.dumps(cases)
pickle.loads(pickled)
print(json.dumps([len(cases), seconds, peak, descriptors, len(pickled) / 2**20, time.monotonic() - start]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=15_000)
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as scratch:
        start = time.monotonic()
        for number in range(files):
            casefile.write(Path(scratch) / f"kits-{number:05d}.safetensors", case(number))
        print(f"{files} case files written in {time.monotonic() - start:.0f} s", flush=True)
        done = subprocess.run([sys.executable, "-c", OPEN, scratch], capture_output=True, text=True, check=True)
    count, seconds, peak, descriptors, pickled, moved = json.loads(done.stdout)
    held = [
        bound("files not opened", files - count, 0),
        bound("wall seconds", seconds, 5),
        bound("MiB of the whole process", peak, 1024),
        bound("descriptors of the whole process", descriptors, 64),
        bound("MiB pickled for a loader that is spawned", pickled, 64),
        bound("seconds to pickle and unpickle them", moved, 5),
    ]
    return 0 if all(held) else 1


def case(number: int) -> Case:
    rng = np.random.default_rng(number)
    geometry = {"affine": rng.normal(size=(4, 4)).tolist(), "shape": [512, 512, 400], "box": [[0, 1], [2, 3], [4, 5]]}
    record = CaseRecord(
        f"kits-{number:05d}", "kits", "train", ("CT",), ("kidney", "kidney_tumour", "kidney_cyst"), (1.0,) * 3, geometry
    )
    voxels = np.column_stack([rng.integers(1, 3, POINTS), rng.integers(0, SIZE, (POINTS, 3))]).astype(np.int32)
    image = rng.normal(size=(1, SIZE, SIZE, SIZE)).astype(np.float32)
    return Case(record, image, np.zeros((SIZE,) * 3, np.uint8), voxels)


if __name__ == "__main__":
    sys.exit(main())
