"""Structures of one's own, from a folder to figures: without an edit of code, sided and unsided, ids beyond a byte."""

import importlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from model import weights_file
from model.data import casefile
from model.data.targets import IGNORED
from pipelines.params import profiles
from pipelines.scans import manifest, own_structures, vocabulary
from pipelines.stages import STAGES
from tests.conftest import REPOSITORY, save
from tests.test_pipeline import THE_ONLY_RANK, set_params, shorten

SHAPE = (24, 24, 24)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The profile for one's own scans, cut down to seconds; the one rank of a training stage is this process."""
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    shutil.copytree(REPOSITORY / "profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    profiles.use("own")
    steps = {"steps": 2, "warmup_steps": 1, "validate_every": 2, "patch_size": {"default": [16, 16, 16]}}
    shorten(tmp_path, train=steps, pretrain={"steps": 0})
    set_params(tmp_path, **{"model.preset": "nano", "data.validation_fraction": 0.2, "data.test_fraction": 0.3})
    for name, value in THE_ONLY_RANK.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def nnunet(project: Path, name: str, labels: Mapping[str, Any], label: np.ndarray, cases: int = 8) -> None:
    """An nnU-Net raw data set of CTs whose every case has this label."""
    folder = project / "data/raw" / name
    for number in range(cases):
        rng = np.random.default_rng([number, len(name)])
        image = np.where(label > 0, 40 + 10 * (label.astype(int) % 20), -900) + rng.integers(-20, 20, label.shape)
        save(folder / f"imagesTr/{name}{number}_0000.nii.gz", image.astype(np.int16))
        save(folder / f"labelsTr/{name}{number}.nii.gz", label)
    index = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **labels}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(index))


def carried_through() -> dict[str, Any]:
    """Every stage in turn; what the evaluation found."""
    for stage in STAGES:
        importlib.import_module(f"pipelines.stages.{stage}").main()
    assert [row.quarantined for row in manifest.read() if row.quarantined] == []
    return dict(json.loads(Path("reports/evaluate/metrics.json").read_text()))


def halves(first: int, second: int, third: int = 0) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[4:20, 4:20, 14:20], label[4:20, 4:20, 4:10], label[8:16, 8:16, 11:13] = first, second, third
    return label


def test_kidneys_with_and_without_sides_train_one_head(project: Path) -> None:
    nnunet(project, "Dataset001_Sides", {"right kidney": 1, "left kidney": 2}, halves(1, 2))
    nnunet(project, "Dataset002_Whole", {"kidney": 1, "spleen": 2}, halves(1, 1, 2))
    found = carried_through()
    card = weights_file.read_card(Path("models/train"))
    assert card.classes == ("spleen", "kidney_left", "kidney_right")
    assert set(card.vocabulary) >= {"kidney", "kidney_left", "kidney_right", "spleen"}
    assert set(found["dice"]) == {"kidney", "kidney_left", "kidney_right", "spleen"}
    assert {frozenset(entry) for entry in found["by_source"].values()} == {
        frozenset({"kidney", "spleen"}), frozenset({"kidney_left", "kidney_right", "kidney"}),
    }  # fmt: skip


def test_three_hundred_structures_are_trained_evaluated_and_come_back(project: Path) -> None:
    lines = [f"part_{number}: {{id: {10_000 + 7 * number}}}" for number in range(300)]
    (project / vocabulary.FILE).write_text("\n".join(lines) + "\n")
    label = many(300, np.int16)
    nnunet(project, "Dataset300_Parts", {f"part {number}": number + 1 for number in range(300)}, label)
    found = carried_through()
    assert len(found["dice"]) == 300
    card = weights_file.read_card(Path("models/train"))
    assert (len(card.classes), card.structures["part_299"]) == (300, 12_093)
    case = casefile.read(next(Path("data/cases/test").glob("*.safetensors")))
    assert set(np.unique(np.asarray(case.label))) == {0, *(10_000 + 7 * number for number in range(300))}
    assert len(np.unique(case.foreground[:, 0])) == 300


def test_a_lesion_nobody_has_heard_of_in_masks_and_voxels_nobody_decided_on(project: Path) -> None:
    own_structures.declare("snowflake_lesion", ["snowflake"], None, "liver")
    for number in range(8):
        stem = project / f"data/raw/sub-{number:02d}/ct/sub-{number:02d}"
        image = np.random.default_rng(number).integers(-20, 20, SHAPE) + np.where(halves(1, 1), 60, -900)
        save(Path(f"{stem}_ct.nii.gz"), image.astype(np.int16))
        save(Path(f"{stem}_label-liver_mask.nii.gz"), halves(1, 1))
        save(Path(f"{stem}_label-snowflake_mask.nii.gz"), halves(1, 0))
    nnunet(project, "Dataset003_Partly", {"liver": 1, "ignore": 3, "ureter": 2}, halves(1, 2, 3))
    set_params(project, **{"data.labels": {"nnunet": {"ureter": "background"}}})
    found = carried_through()
    assert set(found["dice"]) == {"liver", "snowflake_lesion"}
    assert weights_file.read_card(Path("models/train")).structures == {"liver": 13, "snowflake_lesion": 10_000}
    partly = [casefile.read(path) for path in Path("data/cases").rglob("nnunet-*.safetensors")]
    assert all(case.record.undecided and IGNORED in np.asarray(case.label) for case in partly)
    with safe_open(next(Path("data/cases").rglob("bids-*.safetensors")), "numpy") as file:
        assert {f"label_high.{part}" for part in ("index", "codes")} <= set(file.keys())  # an id above 255


ORGANS = (  # as BTCV's data sets call them
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland",
)  # fmt: skip


def many(count: int, kind: type = np.uint8) -> np.ndarray:
    """A label map with so many structures, a cube each."""
    label = np.zeros(SHAPE, kind)
    for number, (d, h, w) in enumerate((np.array(list(np.ndindex(7, 7, 7)))[:count] * 3 + 1).tolist(), start=1):
        label[d : d + 2, h : h + 2, w : w + 2] = number
    return label


def ct(seed: int, label: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(np.where(label > 0, 60, -900) + rng.integers(-20, 20, label.shape), np.int16)


def test_public_layouts_and_a_pair_of_folders_train_one_network(project: Path) -> None:
    raw, label = project / "data/raw", many(13)
    nnunet(project, "Dataset013_Abdomen", {name: value for value, name in enumerate(ORGANS, start=1)}, label)
    (raw / "Task09_Spleen").mkdir()
    for number in range(8):
        for folder, array in (("imagesTr", ct(100 + number, label)), ("labelsTr", np.minimum(label, 1))):
            save(raw / f"Task09_Spleen/{folder}/spleen_{number}.nii.gz", array)
        for folder, array in (("images", ct(200 + number, label)), ("labels", np.minimum(label, 2))):
            save(raw / f"ours/{folder}/{number}.nii.gz", array)
    index = {
        "name": "Spleen",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
        "training": [
            {"image": f"./imagesTr/spleen_{number}.nii.gz", "label": f"./labelsTr/spleen_{number}.nii.gz"}
            for number in range(8)
        ],
    }
    (raw / "Task09_Spleen/dataset.json").write_text(json.dumps(index))
    pairs = {"data.labels": {"pairs": {"1": "urinary_bladder", "2": "prostate"}}, "data.modality": {"pairs": "CT"}}
    set_params(project, **pairs)
    found = carried_through()
    assert len(found["dice"]) >= 13 + 2
    assert {"kidney_left", "kidney_right", "urinary_bladder", "prostate"} <= set(found["dice"])
    assert len(found["by_source"]) == 3
    assert len(weights_file.read_card(Path("models/train")).classes) == 15


def test_a_hundred_and_seventeen_masks_a_scan(project: Path) -> None:
    sets = yaml.safe_load((REPOSITORY / "tests/pipelines/scans/datasets.yaml").read_text())
    names = list(dict.fromkeys(sets["totalsegmentator-v2"].values()))
    assert len(names) == 117
    label = many(117)
    for number in range(8):
        folder = project / f"data/raw/s{number:04d}"
        save(folder / "ct.nii.gz", ct(number, label))
        for value, name in enumerate(names, start=1):
            save(folder / f"segmentations/{name}.nii.gz", (label == value).astype(np.uint8))
    found = carried_through()
    assert {name for name in found["dice"] if name in names} == set(names)
    assert len(weights_file.read_card(Path("models/train")).classes) == 117
