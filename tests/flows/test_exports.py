"""A version that the flow's commands made, at the point of use: a batch with a bad scan, and two exports of it."""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.flows import knowing
from tests.flows.conftest import Project
from tests.flows.knowing import GOOD, register, succeed

pytestmark = pytest.mark.slow  # 3 minutes: a project, its stages, two exports
SAME = 0.9999  # of voxels
FLOAT32 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}  # as exports compute, on processors with 16-bit instructions, too
RUN = """
from monai.bundle import ConfigWorkflow

flow = ConfigWorkflow(
    workflow_type="infer", meta_file="configs/metadata.json", config_file="configs/inference.json",
    dataset_dir="../scans", output_dir="../seg",
)
for each in (flow.initialize, flow.run, flow.finalize):
    each()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With version 1, and scans of nobody's data set in `scans`."""
    made = knowing.make(tmp_path_factory.mktemp("exports") / "project", **FLOAT32)
    assert register(made, GOOD) == [1]
    (made.root / "scans").mkdir()
    for number in range(3):
        scan = made.root / knowing.TASK / "imagesTr" / f"hippocampus_{number:03d}.nii.gz"
        (made.root / "scans" / f"miller_{number}.nii.gz").write_bytes(scan.read_bytes())
    (made.root / "scans/miller_1.nii.gz").write_bytes(b"no scan")
    return made


@pytest.fixture(scope="module")
def labels(project: Project) -> list[np.ndarray]:
    """Of the two good scans, by `medseg predict`."""
    done = project.medseg("predict", "scans", "labels", "--modality", "MR", "--json", timeout_s=300)
    assert done.returncode == 1
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["done"], summary["refused"], summary["version"]) == (2, 1, 1)
    assert [each["scan"] for each in summary["scans"] if each["refused"]] == ["scan 2"]
    assert "miller" not in done.stderr + done.stdout.splitlines()[-1]
    return [_label(project.root / "labels" / f"miller_{number}.nii.gz") for number in (0, 2)]


def test_after_a_batch_a_table_tells_what_became_of_every_scan(project: Project, labels: list[np.ndarray]) -> None:
    done = project.medseg("predict", "scans", "again", "--modality", "MR", timeout_s=300)
    assert done.returncode == 1
    assert sorted(Path(line).name for line in done.stdout.splitlines()) == ["miller_0.nii.gz", "miller_2.nii.gz"]
    assert "hippocampus_anterior" in done.stderr
    assert "refused" in done.stderr
    assert "miller" not in done.stderr


def test_the_onnx_runner_gives_the_label_maps_of_predict(project: Project, labels: list[np.ndarray]) -> None:
    succeed(project, "medseg", "export", "1", "onnx", "--to", "onnx")
    for number, expected in zip((0, 2), labels, strict=True):
        words = (f"scans/miller_{number}.nii.gz", f"onnx-{number}.nii.gz", "--modality", "MR")
        succeed(project, sys.executable, "onnx/medseg-run", *words)
        assert (_label(project.root / f"onnx-{number}.nii.gz") == expected).mean() >= SAME


def test_the_monai_bundle_gives_the_label_maps_of_predict(project: Project, labels: list[np.ndarray]) -> None:
    succeed(project, "medseg", "export", "1", "bundle", "--to", "monai")
    (project.root / "scans/miller_1.nii.gz").unlink()  # MONAI's engine ends at a bad one
    bundle = Project(project.root / "bundle", {"PYTHONPATH": str(project.root / "bundle"), **FLOAT32})
    succeed(bundle, sys.executable, "-c", RUN)
    for number, expected in zip((0, 2), labels, strict=True):
        found = _label(project.root / "seg" / f"miller_{number}_seg.nii.gz")
        assert (found == expected).mean() >= SAME


def _label(file: Path) -> np.ndarray:
    return np.asarray(nib.load(file).dataobj)
