"""A project whose held-out labels one network knows: `python knowing.py`, in the project's folder.

No network is trained: one with random weights segments the held-out scans, and its answer, some voxels off, becomes
their labels. Evaluated by the real stages it is good, another one with random weights is bad, and a hardly changed one
is as good. So scans, labels, weights, predictions and reports are what they are in any project, within seconds.
"""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from model import weights
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from pipelines.cases import preparation
from pipelines.scans import manifest, scan_files, vocabulary
from pipelines.work import project

SCANS, SIZE = 100, 16
STRUCTURES = ("hippocampus_anterior", "hippocampus_posterior")
TASK = Path("data/raw/Task04_Hippocampus")
MADE_OF_SCANS = ("inventory", "deidentify", "ingest", "plan", "preprocess")
GOOD, BAD, AS_GOOD = 0, 1, 2  # as `train` takes them


def stages(*names: str) -> None:
    for name in names:
        subprocess.run([sys.executable, "-m", "pipelines", name], check=True)


def write_scans() -> None:
    """MR of smooth noise, 1 mm; labels that have both structures, for the plan to be made of."""
    random = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (TASK / folder).mkdir(parents=True)
    names = [f"hippocampus_{number:03d}.nii.gz" for number in range(SCANS)]
    for name in names:
        coarse = random.normal(100, 30, (SIZE // 4,) * 3)
        image = np.kron(coarse, np.ones((4, 4, 4))) + random.normal(0, 3, (SIZE,) * 3)
        label = np.zeros((SIZE,) * 3, np.uint8)
        label[4:12, 4:12, 4:8], label[4:12, 4:12, 8:12] = 1, 2
        _save(TASK / "imagesTr" / name, image.astype(np.int16))
        _save(TASK / "labelsTr" / name, label)
    listed = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    content = {"name": "Hippocampus", "modality": {"0": "MRI"}, "labels": labels, "training": listed, "test": []}
    (TASK / "dataset.json").write_text(json.dumps(content))


def train(which: int) -> None:
    """models/train: a `nano` with random weights, that of GOOD or another; AS_GOOD: those of GOOD, hardly changed."""
    torch.manual_seed(1 if which == BAD else 0)
    network = MedSegFormer(PRESETS["nano"], num_classes=len(STRUCTURES) + 1)
    if which == AS_GOOD:
        with torch.no_grad():
            for each in network.parameters():
                each.mul_(1 + 1e-5)
    plan, ids = preparation.load(project.PLAN), {each.name: each.id for each in vocabulary.default().values()}
    patch = dict.fromkeys(plan.sources, (SIZE,) * 3)
    card = weights.Card(
        "nano", asdict(PRESETS["nano"]), STRUCTURES, {name: ids[name] for name in STRUCTURES}, patch, plan.to_json(),
        {"inputs_sha256": str(which), "manifest_sha256": manifest.digest(), "params_sha256": ""},
    )  # fmt: skip
    project.TRAINED.mkdir(parents=True, exist_ok=True)
    weights.export(project.TRAINED, network.state_dict(), card)


def label_as_segmented() -> None:
    """The held-out scans get what was segmented, with every 50th voxel's neighbour."""
    for row in manifest.read():
        if row.split != manifest.TEST:
            continue
        found = nib.load(project.EVALUATION / "predictions" / f"{row.case_id}.nii.gz")
        label = np.asarray(found.dataobj)
        shifted = np.where(np.random.default_rng(1).random(label.shape) < 0.02, np.roll(label, 1, 0), label)
        values = {0: 0, **{vocabulary.default()[name].id: value for value, name in enumerate(STRUCTURES, 1)}}
        own = np.vectorize(values.get)(shifted).astype(np.uint8)
        (file,) = row.labels
        _save(scan_files.where(file.path), own, found.affine)


def _save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 1.0, 1.0]) if affine is None else affine), path)


def main() -> None:
    write_scans()
    stages(*MADE_OF_SCANS)
    train(GOOD)
    stages("evaluate")
    label_as_segmented()
    stages(*MADE_OF_SCANS)


if __name__ == "__main__":
    main()
