"""Predicted peaks of segmenting against measured ones, each scan in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

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
for name in ("large", "many"):
    segmenter, scan = Segmenter.load(Path(name), Conditions(0.0, "bfloat16", "")), Path(f"{name}.nii.gz")
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    segment_files(segmenter, {"": scan}, "CT", None)
    predicted = segment_bytes(outline(scan), 1, segmenter.plan.sources["kits"], segmenter.card, "kits")
    print(json.dumps([predicted, 1024 * (kilobytes("VmHWM") - before)]))
"""


def test_the_predicted_peak_holds_and_is_not_much_too_high(tmp_path: Path) -> None:
    """The reading of a large scan, and the window of a small one with all structures."""
    for name, size, spacing_mm, window, classes in (("large", 160, 0.3, 24, 2), ("many", 36, 2.0, 36, 27)):
        write_weights(tmp_path / name, window, classes)
        scan = np.random.default_rng(0).normal(40, 30, (size,) * 3).astype(np.int16)
        save(tmp_path / f"{name}.nii.gz", scan, np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1]))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for predicted, measured in map(json.loads, done.stdout.splitlines()):
        assert measured <= predicted <= 3 * measured
