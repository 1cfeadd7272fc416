"""Predicted peaks of segmenting against measured ones, each scan in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY, save
from tests.pipelines.serving.networks import write_weights

MEASURE = """
import json
from pathlib import Path
import torch
from pipelines.scans.volume import outline
from pipelines.serving.conditions import Conditions
from pipelines.serving.footprint import segment_bytes
from pipelines.serving.from_files import segment_files
from pipelines.serving.segmenter import Segmenter

def kilobytes(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line)

torch.set_num_threads(1)
conditions = Conditions({overlap}, "bfloat16", "", {flips})
segmenter = Segmenter.load(Path("weights"), conditions)
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
segment_files(segmenter, {"": Path("scan.nii.gz")}, "CT", None)
record = segmenter.plan.sources["kits"]
print(json.dumps([segment_bytes(outline(Path("scan.nii.gz")), 1, record, segmenter.card, "kits", conditions),
                  1024 * (kilobytes("VmHWM") - before)]))
"""


@pytest.mark.parametrize(
    ("size", "spacing_mm", "window", "classes", "overlap", "flips"),
    [
        (160, 0.3, 24, 2, 0.0, ()),  # a large scan on its own grid
        (36, 2.0, 36, 27, 0.0, ()),  # the window of a small one, all structures
        (72, 2.0, 24, 27, 0.25, ()),  # a band of windows, all structures
        (48, 2.0, 48, 27, 0.0, (2,)),  # views
        (32, 4.0, 24, 27, 0.0, ()),  # a coarse scan, whose answer is made smaller
    ],
)
def test_the_predicted_peak_holds_and_is_not_much_too_high(
    tmp_path: Path, size: int, spacing_mm: float, window: int, classes: int, overlap: float, flips: tuple[int, ...]
) -> None:
    write_weights(tmp_path / "weights", window, classes)
    scan = np.random.default_rng(0).normal(40, 30, (size,) * 3).astype(np.int16)
    save(tmp_path / "scan.nii.gz", scan, np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1]))
    measure = MEASURE.replace("{overlap}", str(overlap)).replace("{flips}", str(flips))
    done = subprocess.run(
        [sys.executable, "-c", measure], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    predicted, measured = json.loads(done.stdout)
    assert measured <= predicted <= 2.5 * measured
