"""What all tests share: quiet tools, how they are spread over processes, and folders of small real files."""

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
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks gain nothing from threads and lose much beside others

REPOSITORY = Path(__file__).parents[1]
# Files that take longest, in this order, so that none of them is begun last. A folder is one group: it shares servers.
LONGEST = (
    "tests/flows",
    "tests/test_pipeline.py",
    "tests/pipelines/training/test_survival.py",
    "tests/model/engine/test_ranks.py",
    "tests/model/certificate/test_certificate.py",
    "tests/pipelines/training/test_certification.py",
)


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one more than cores, since much of the suite waits for processes that start."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests run in one process, one after the other, as they share what they have made."""
    groups = {item: _group(item.path.relative_to(REPOSITORY).as_posix()) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: LONGEST.index(groups[item]) if groups[item] in LONGEST else len(LONGEST))


def _group(path: str) -> str:
    return next((group for group in LONGEST if path.startswith(group)), path)


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
