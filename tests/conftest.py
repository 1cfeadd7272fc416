"""What all tests share: quiet tools, and folders of small real files."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    DVC_NO_ANALYTICS="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
)

REPOSITORY = Path(__file__).parents[1]


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write an array as NIfTI, 1 mm unless told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten small ACDC patients with one frame each below tmp_path/data/raw; the working folder is tmp_path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    raw = tmp_path / "data" / "raw"
    for number in range(10):
        rng = np.random.default_rng(number)
        name = f"patient{number:03d}"
        label = np.zeros((12, 12, 4), np.uint8)
        label[3:6, 3:9, 1:3], label[6:8, 3:9, 1:3], label[8:9, 3:9, 1:3] = 1, 2, 3
        image = rng.integers(1, 100, label.shape).astype(np.int16) + 100 * label.astype(np.int16)
        affine = np.diag([1.5, 1.5, 10, 1])
        save(raw / name / f"{name}_frame01.nii.gz", image, affine)
        save(raw / name / f"{name}_frame01_gt.nii.gz", label, affine)
    return raw
