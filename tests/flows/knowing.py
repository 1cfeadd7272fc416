"""Versions to release, of real stages and without training: a project whose held-out labels one network knows.

A network with random weights segments the held-out scans, and its answer, some voxels off, becomes their labels.
Evaluated by the real stages that network is good, another one with random weights is bad, and a hardly changed one is
as good. So scans, labels, weights, predictions and reports are what they are in any project, within two minutes.
"""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from io import StringIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests import in_process
from tests.conftest import copy_checkout
from tests.flows.conftest import Project

SCANS, SIZE = 72, 16
STRUCTURES = ("hippocampus_anterior", "hippocampus_posterior")
TASK = Path("data/raw/Task04_Hippocampus")
MADE_OF_SCANS = ("inventory", "deidentify", "ingest", "plan", "preprocess")
REGISTERED = ("register", "make_version")
GOOD, BAD, AS_GOOD = "good", "bad", "as good"  # networks, as `train` takes them
AUTHOR, APPROVER = "author@example.org", "approver@example.org"
STRANGER = "stranger@example.org"
Taker = Callable[..., str]  # of steps in a project; gives what they print


def make(root: Path, take: Taker | None = None, **environment: str) -> Project:
    """A checkout that is a project, its code committed by AUTHOR, scans labelled as GOOD segments them; keys of people
    in `keys`. No version yet. `take`: where steps are taken, `inside` unless told."""
    project = Project(copy_checkout(root), {"PYTHONPATH": str(root), "MEDSEG_RANKS": "1", **environment})
    set_params(project)
    (root / ".medseg").mkdir(mode=0o700)
    project.write(".medseg/key", hashlib.sha256(b"one split in every run").hexdigest())
    (root / ".medseg/key").chmod(0o600)
    for command in (
        ("git", "init", "-q"),
        ("git", "add", "-A"),
        ("git", "-c", "user.name=Author", "-c", f"user.email={AUTHOR}", "commit", "-qm", "Project"),
        ("git", "config", "user.email", AUTHOR),
    ):
        succeed(project, *command)
    for name in (AUTHOR, APPROVER, STRANGER):
        make_key(project, name)
    labelled = ("write_scans", *MADE_OF_SCANS, f"train {GOOD}", "evaluate", "label_as_segmented", *MADE_OF_SCANS)
    (take or inside)(project, *labelled)
    return project


def register(project: Project, *networks: str, take: Taker | None = None) -> list[int]:
    """The versions that are made of these networks."""
    steps = [step for each in networks for step in (f"train {each}", "evaluate", *REGISTERED)]
    return versions(project, *steps, take=take)


def versions(project: Project, *steps: str, take: Taker | None = None) -> list[int]:
    """Those that the steps make."""
    told = (take or inside)(project, *steps)
    return [int(line.split()[1]) for line in told.splitlines() if line.startswith("version ")]


def begin_ledger(project: Project, take: Taker | None = None) -> None:
    """AUTHOR and APPROVER may sign; the plan is in force."""
    (take or inside)(project, "sign_the_first_statements")


def make_key(project: Project, name: str) -> Path:
    """A private key in the project's folder `keys`, which git ignores."""
    path = project.root / "keys" / name
    path.parent.mkdir(exist_ok=True)
    succeed(project, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path))
    return path


def succeed(project: Project, *command: str) -> str:
    ended = project.call(*command, timeout_s=900)
    assert ended.returncode == 0, f"{command}: {ended.stdout[-2000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


def inside(project: Project, *steps: str) -> str:
    """What one process of the project's own prints that takes these steps: stages, or functions of this file, each
    with what it is given in a word of its own."""
    return succeed(project, sys.executable, "-m", "tests.flows.knowing", *steps)


def here(project: Project, *steps: str) -> str:
    """As `inside`, in this process, which torch and MLflow need not be imported for anew. Raises what a step raises.

    The program is the checkout's, and so is what the project has of it: told as its commit is the project's.
    """
    from pipelines.release import run_identity

    with (
        in_process.inside(project.root, **project.environment),
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as told,
    ):
        patch.setattr(run_identity, "HERE", project.root)
        for each in steps:
            take(each)
    return told.getvalue()


def set_params(project: Project) -> None:
    from ruamel.yaml import YAML

    yaml, path = YAML(), project.root / "params.yaml"
    content = yaml.load(path.read_text())
    content["data"].update(sources=["msd"], test_fraction=0.6)
    content["preprocess"]["spacing_mm"] = {"default": [1.0, 1.0, 1.0]}
    with path.open("w") as file:
        yaml.dump(content, file)
    project.write(".gitignore", project.read(".gitignore") + "/keys/\n")
    project.replace("release/plan.yaml", "calibration_error_at_most: 0.25", "calibration_error_at_most: 0.9")


def write_scans() -> None:
    """MR of smooth noise, 1 mm; labels that have both structures, for the plan to be made of."""
    random = np.random.default_rng(0)
    names = [f"hippocampus_{number:03d}.nii.gz" for number in range(SCANS)]
    for name in names:
        coarse = random.normal(100, 30, (SIZE // 4,) * 3)
        image = np.kron(coarse, np.ones((4, 4, 4))) + random.normal(0, 3, (SIZE,) * 3)
        label = np.zeros((SIZE,) * 3, np.uint8)
        label[4:12, 4:12, 4:8], label[4:12, 4:12, 8:12] = 1, 2
        _save(TASK / "imagesTr" / name, image.astype(np.int16), np.eye(4))
        _save(TASK / "labelsTr" / name, label, np.eye(4))
    listed = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    content = {"name": "Hippocampus", "modality": {"0": "MRI"}, "labels": labels, "training": listed, "test": []}
    (TASK / "dataset.json").write_text(json.dumps(content))


def train(which: str) -> None:
    """models/train: a `nano` with random weights, those of GOOD or others; AS_GOOD: those of GOOD, hardly changed."""
    import torch

    from model import weights
    from model.network.config import PRESETS
    from model.network.medsegformer import MedSegFormer
    from pipelines.cases import preparation
    from pipelines.scans import manifest, vocabulary
    from pipelines.work import project
    from pipelines.work.writing import replacing

    torch.manual_seed(1 if which == BAD else 0)
    network = MedSegFormer(PRESETS["nano"], num_classes=len(STRUCTURES) + 1)
    if which == AS_GOOD:
        with torch.no_grad():
            for each in network.parameters():
                each.mul_(1 + 1e-5)
    plan, ids = preparation.load(project.PLAN), {each.name: each.id for each in vocabulary.default().values()}
    card = weights.Card(
        "nano", asdict(PRESETS["nano"]), STRUCTURES, {name: ids[name] for name in STRUCTURES},
        dict.fromkeys(plan.sources, (SIZE,) * 3), plan.to_json(),
        {"inputs_sha256": which, "manifest_sha256": manifest.digest(), "params_sha256": ""},
    )  # fmt: skip
    with replacing(project.TRAINED) as folder:
        folder.mkdir()
        weights.export(folder, network.state_dict(), card)


def label_as_segmented() -> None:
    """The held-out scans get what was segmented, with every 50th voxel as its neighbour."""
    from pipelines.scans import manifest, scan_files, vocabulary
    from pipelines.work import project

    random = np.random.default_rng(1)
    for row in manifest.read():
        if row.split != manifest.TEST:
            continue
        found = nib.load(project.EVALUATION / "predictions" / f"{row.case_id}.nii.gz")
        label = np.asarray(found.dataobj)
        label = np.where(random.random(label.shape) < 0.02, np.roll(label, 1, 0), label)
        own = np.zeros(label.shape, np.uint8)
        for value, name in enumerate(STRUCTURES, 1):
            own[label == next(each.id for each in vocabulary.default().values() if each.name == name)] = value
        (file,) = row.labels
        _save(scan_files.where(file.path), own, found.affine)


def make_version() -> None:
    from pipelines.release import registration

    print(f"version {registration.make_version()}", flush=True)


def sign_the_first_statements() -> None:
    from typer.testing import CliRunner

    from flows.commands.medseg import app

    for words in (
        ("signers", "add", AUTHOR, f"keys/{AUTHOR}.pub", "--role", "author"),
        ("signers", "add", APPROVER, f"keys/{APPROVER}.pub", "--role", "approver"),
        ("signers", "sign", "--key", f"keys/{APPROVER}"),
        ("gate", "plan", "--sign", f"keys/{APPROVER}"),
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output


def _save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def take(step: str) -> None:
    name, _, argument = step.partition(" ")
    own = (write_scans, train, label_as_segmented, make_version, sign_the_first_statements)
    if function := next((each for each in own if each.__name__ == name), None):
        function(*([argument] if argument else []))
    else:
        importlib.import_module(f"pipelines.stages.{name}").main()


if __name__ == "__main__":
    for each in sys.argv[1:]:
        take(each)
