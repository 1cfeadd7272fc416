"""Predicted peaks against measured ones, each case in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.work.memory import OVERHEAD_BYTES
from tests.conftest import REPOSITORY, save

MEASURE = """
import json, sys
from pathlib import Path
from pipelines.cases import case_folder, fingerprint
from pipelines.cases.forecast import case_bytes, fingerprint_bytes
from pipelines import params
from pipelines.intake import examination
from pipelines.scans import vocabulary
from pipelines.scans.manifest import File, Row
from pipelines.work.digests import sha256_of
from pipelines.cases.case_making import prepare_case
from pipelines.cases.preparation import CTScale, Preprocessing, SourceRecord

def kilobytes(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line)

told = json.loads(sys.argv[1])
paths = {name: Path(f"{name}.nii.gz") for name in told["files"]}
files = [File(name, path.name, sha256_of(path), path.stat().st_size, "msd-hippocampus") for name, path in paths.items()]
modalities = [name for name in told["files"] if name != "label"]
row = Row("case", "patient", "source", "train", modalities, files,
          ["hippocampus_anterior", "hippocampus_posterior"], told["spacing_mm"], told["shape"])
record = SourceRecord(tuple(modalities), (), tuple(told["target_mm"]), tuple(told["spacing_mm"]))
bounds = params.load(Path(told["params"])).ingest.quality
vocabulary.here()["hippocampus"]  # once a worker, whatever it makes
before = kilobytes("VmRSS")
if told["step"] == "case":
    case = prepare_case(row, Preprocessing(CTScale(-100, 300, 50, 60), {"source": record}), 1000)
    case_folder.finish(Path("out"), case, "key")
    predicted = case_bytes(row, tuple(told["target_mm"]))
elif told["step"] == "examine":
    examined = examination.examine_one(row, bounds)
    assert examined.orientation, examined.quarantined
    predicted = examination.load_of(0, row).memory_bytes
else:
    fingerprint.scan_statistics(row)
    predicted = fingerprint_bytes(row)
print(json.dumps([predicted, 1024 * (kilobytes("VmHWM") - before)]))
"""


def scan(folder: Path, files: list[str], shape: list[int], spacing_mm: list[float]) -> None:
    """Noise that fills the field, in a file whose axes are turned on reading."""
    rng = np.random.default_rng(0)
    affine = np.diag([-spacing_mm[2], -spacing_mm[1], spacing_mm[0], 1])
    for name in files:
        array = rng.integers(1, 100, shape[::-1]).astype(np.uint8 if name == "label" else np.int16)
        if name == "label":
            array[...] = 0
            array[shape[2] // 3 : shape[2] // 2, shape[1] // 3 : shape[1] // 2] = 1
        save(folder / f"{name}.nii.gz", array, affine)


SIZES = [
    (["T1", "label"], [60, 160, 160], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]),
    (["CT", "label"], [60, 160, 160], [2.0, 1.0, 1.0], [1.25, 0.8, 0.8]),
    (["CT"], [120, 200, 200], [1.0, 1.0, 1.0], [1.5, 1.5, 1.5]),
    (["FLAIR", "T1", "T1CE", "T2", "label"], [100, 160, 160], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]),
    (["FLAIR", "T1CE", "label"], [155, 160, 160], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]),
]


@pytest.mark.parametrize(("files", "shape", "spacing_mm", "target_mm"), SIZES)
@pytest.mark.parametrize("step", ["case", "examine", "fingerprint"])
def test_the_predicted_peak_holds_and_is_not_much_too_high(
    tmp_path: Path, step: str, files: list[str], shape: list[int], spacing_mm: list[float], target_mm: list[float]
) -> None:
    scan(tmp_path, files, shape, spacing_mm)
    told: dict[str, Any] = {
        "step": step, "files": files, "shape": shape, "spacing_mm": spacing_mm, "target_mm": target_mm,
        "params": str(REPOSITORY / "params.yaml"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(told)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    predicted, measured = json.loads(done.stdout)
    constant = OVERHEAD_BYTES if step == "examine" else 0  # half of what the two smallest scans take in all
    assert measured <= predicted <= 1.6 * measured + constant
