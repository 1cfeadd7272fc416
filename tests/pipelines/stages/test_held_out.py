"""Held-out cases on disk: what cannot be measured is left out by name, the rest is measured."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import weights, weights_file
from model.data import casefile
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from model.weights_file import Card
from pipelines.cases.case_making import prepare_case
from pipelines.cases.preparation import CTScale, Preprocessing, SourceRecord
from pipelines.evaluation import tables
from pipelines.params import profiles
from pipelines.release import audit, growth, record, registry
from pipelines.scans import manifest, scan_files, vocabulary
from pipelines.scans.manifest import TEST, TRAIN, File, Row
from pipelines.serving import comparing, familiarity, reevaluating, references
from pipelines.serving.conditions import Conditions
from pipelines.serving.held_out import segment_and_measure
from pipelines.stages import evaluate
from pipelines.work import project
from pipelines.work.digests import sha256_of
from pipelines.work.memory import GIB
from tests.conftest import save

HIPPOCAMPUS = ("hippocampus_anterior", "hippocampus_posterior")
SMOKE = profiles.compose("smoke")
ONE_MM = (1.0, 1.0, 1.0)
RECORD = SourceRecord(("T1",), HIPPOCAMPUS, ONE_MM, ONE_MM)
PLAN = Preprocessing(CTScale(-100, 300, 50, 60), {"msd": RECORD, "large": RECORD, "unseen": RECORD})


@pytest.fixture
def held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Five cases, an untrained network of 16^3, the project around them."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").touch()
    tolerant = SMOKE.replace("max_left_out_fraction: 0.0", "max_left_out_fraction: 0.5")
    Path("params.yaml").write_text(tolerant)
    rows = [_case(tmp_path, number) for number in range(5)]
    manifest.write(project.MANIFEST, rows)
    torch.manual_seed(0)
    network = MedSegFormer(PRESETS["nano"], num_classes=3)
    fields = json.loads(json.dumps(asdict(PRESETS["nano"])))
    ids = {name: vocabulary.default()[name].id for name in HIPPOCAMPUS}
    card = Card("nano", fields, HIPPOCAMPUS, ids, {"msd": (16, 16, 16), "large": (48, 48, 48)}, PLAN.to_json(), {})
    project.TRAINED.mkdir(parents=True)
    weights.export(project.TRAINED, network.state_dict(), card)
    return rows


def _case(folder: Path, number: int, source: str = "msd", size: int = 20, split: str = TEST) -> Row:
    rng = np.random.default_rng(number)
    label = np.zeros((size, size, size), np.uint8)
    label[4:8, 4:16, 4:16], label[8:12, 4:16, 4:16] = 1, 2
    scan = (label * 50 + rng.integers(1, 30, label.shape)).astype(np.int16)
    saved = {
        "T1": save(folder / f"raw/{number}.nii.gz", scan),
        "label": save(folder / f"raw/{number}-label.nii.gz", label),
    }
    files = [
        File(role, path.as_posix(), sha256_of(path), path.stat().st_size, "msd-hippocampus")
        for role, path in saved.items()
    ]
    row = Row(
        f"{source}-{number}", f"{number}", source, split, ["T1"], files, list(HIPPOCAMPUS),
        [1.0, 1.0, 1.0], [size, size, size], "RAS",
    )  # fmt: skip
    path = folder / project.CASES / split / f"{row.case_id}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    casefile.write(path, prepare_case(row, PLAN, 100))
    return row


def test_what_cannot_be_measured_is_left_out_by_name_and_the_rest_is_measured(
    held_out: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(held_out[1].files[1].path).unlink()
    manifest.write(project.MANIFEST, [*held_out, _case(tmp_path, 7, "unseen")])
    read = scan_files.read

    def killed_at_3(row: Row, file: File) -> object:
        if file.path.endswith("3-label.nii.gz"):
            os.kill(os.getpid(), signal.SIGKILL)
        return read(row, file)

    monkeypatch.setattr(scan_files, "read", killed_at_3)
    evaluate.main()
    found = json.loads((project.EVALUATION / "metrics.json").read_text())
    assert found["cases"] == 3
    assert list(found["left_out"]) == ["msd-1", "msd-3", "unseen-7"]
    assert found["left_out"]["msd-1"] == "msd-1: its label file cannot be read (No such file or directory)"
    assert "was killed" in found["left_out"]["msd-3"]
    assert found["left_out"]["unseen-7"] == "the network was trained on no scan of its source, unseen"
    (look,) = audit.read()
    assert (look.event, look.facts["cases"], look.facts["weights_sha256"]) == ("evaluate", 3, found["weights_sha256"])
    assert look.facts["test_set_sha256"] == manifest.test_set_sha256()
    page = (project.EVALUATION / "index.html").read_text()
    assert all(case in page and reason.split(" (")[0] in page for case, reason in found["left_out"].items())
    assert found["structures"]["hippocampus"]["dice"]["n"] == 3
    details = json.loads((project.EVALUATION / "details.json").read_text())
    assert details["confidence"]["hippocampus_anterior"]["volume"]["note"] == "too few"
    assert sorted(path.name for path in (project.EVALUATION / "predictions").iterdir()) == [
        "msd-0.nii.gz",
        "msd-2.nii.gz",
        "msd-4.nii.gz",
    ]
    assert {score.case_id for score in tables.read(project.EVALUATION / "cases.parquet")} == {"msd-0", "msd-2", "msd-4"}


def test_training_scans_are_looked_at_and_held_out_ones_held_against_them(held_out: list[Row], tmp_path: Path) -> None:
    trained = [_case(tmp_path, number, split=TRAIN) for number in range(10, 20)]
    larger = _case(tmp_path, 30, size=30)
    manifest.write(project.MANIFEST, [*held_out, *trained, larger])
    evaluate.main()
    told = json.loads((project.EVALUATION / "metrics.json").read_text())["familiarity"]
    assert told == {"training_scans": {"msd": 10}, "held_out": 6, "held_out_flagged": ["msd-30"]}
    known = familiarity.read(project.EVALUATION / record.FAMILIARITY)
    assert list(known.sources["msd"]) == ["voxel", "field", "intensity.T1", "grain.T1", "places.T1", "network"]
    content = record.make("m", project.TRAINED, project.EVALUATION)
    assert content["evaluation_files"][record.FAMILIARITY] == sha256_of(project.EVALUATION / record.FAMILIARITY)
    few = references.of_training(project.TRAINED, Conditions.of_here(0.5), GIB, most=3)
    assert not few.sources  # of three patients nothing can be told
    assert few.judged("msd", {}).score is None


def test_more_left_out_than_the_bound_stops_and_names_them(held_out: list[Row]) -> None:
    for row in held_out[:3]:
        Path(row.files[1].path).write_bytes(b"no scan")
    with pytest.raises(ValueError, match=r"3 of 5 cases are left out, above evaluate.*msd-0: "):
        evaluate.main()
    assert not project.EVALUATION.exists()


def test_a_case_that_needs_more_memory_than_there_is_is_named_before_it_is_tried(
    held_out: list[Row], tmp_path: Path
) -> None:
    found = segment_and_measure(project.TRAINED, Conditions.of_here(0.5), 1 << 20, tmp_path)
    assert not found.cases
    assert len(found.left_out) == 5
    assert all("above preprocess.memory_gib" in reason for reason in found.left_out.values())


MEASURE = """
import ctypes
import json
from pathlib import Path
from model.data import casefile
from pipelines.scans import manifest
from pipelines.serving.conditions import Conditions
from model import weights_file
from pipelines.serving.footprint import segmentation_bytes, window_bytes
from pipelines.serving.held_out import HeldOutJob, MeasuredCase, measure_case
from pipelines.work.memory import ALLOCATOR

def kilobytes(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line)

rows = {row.case_id: row for row in manifest.read()}
job = HeldOutJob(rows, Path("models/train"), Conditions.of_here(0.0), frozenset(), Path("."))
small, large = (Path(f"data/cases/test/{name}.safetensors") for name in ("msd-0", "large-9"))
assert isinstance(measure_case(small, job), MeasuredCase)  # imports, kernels
ctypes.CDLL(None).malloc_trim(0)  # what it kept of the small one
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is not the case's
before = kilobytes("VmRSS")
measured = measure_case(large, job)
assert isinstance(measured, MeasuredCase), measured
predicted = segmentation_bytes(casefile.read(large), job.weights, job.conditions)
card = weights_file.read_card(job.weights)
window = ALLOCATOR * window_bytes(card, card.patch_size["large"], ())
print(json.dumps([predicted, window, 1024 * (kilobytes("VmHWM") - before)]))
"""


def test_the_predicted_peak_holds_and_is_not_much_too_high(held_out: list[Row], tmp_path: Path) -> None:
    manifest.write(project.MANIFEST, [*held_out, _case(tmp_path, 9, "large", size=48)])
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    predicted, window, measured = json.loads(done.stdout)
    assert measured <= predicted
    # oneDNN takes 5 to 30 maps for a window, by its shape and the processor; the rest is not too high
    assert predicted - window <= measured


def test_two_versions_segment_the_same_scans_and_their_differences_are_paired(
    held_out: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is the first with other last weights: it says one structure everywhere."""
    other = tmp_path / "other"
    other.mkdir()
    network, card = weights.load(project.TRAINED)
    state = {
        name: torch.full_like(value, 0.5) if "head" in name else value for name, value in network.state_dict().items()
    }
    weights.export(other, state, card)
    folders = {"models:/m/1": project.TRAINED, "models:/m/2": other}
    monkeypatch.setattr(registry, "find", lambda model: version(model, folders[model]))
    found = comparing.compare("models:/m/1", "models:/m/2")
    assert (found["first"], found["other"], found["cases"]) == ("m 1", "m 2", 5)
    dice = next(each for each in found["differences"] if each["metric"] == "dice")
    assert (dice["n"], dice["better"] + dice["equal"] + dice["worse"], dice["note"]) == (5, 5, "too few")
    page = Path(found["report"]).read_text()
    assert "m 1" in page
    assert "m 2" in page
    assert len(list((tmp_path / ".medseg/compare").iterdir())) == 2
    looks = {line.facts["weights_sha256"]: line.facts["cases"] for line in audit.read(("compare",))}
    assert looks == {weights_file.digest(folder): 5 for folder in folders.values()}
    same = comparing.compare("models:/m/1", "models:/m/1", tmp_path / "same")
    assert {each["mean"] for each in same["differences"]} == {0}


def test_a_version_is_measured_again_on_scans_of_patients_that_it_does_not_know(
    held_out: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = version("models:/m/1", project.TRAINED)
    told.record.update(identity={}, mean_dice=0.75, dice={"hippocampus_anterior": 0.7})
    monkeypatch.setattr(registry, "find", lambda _model: told)
    monkeypatch.setattr(growth, "trained_on", lambda *_of: [*held_out[:2], replace(held_out[2], split=TRAIN)])
    found = reevaluating.reevaluate("models:/m@champion")
    assert (found["cases"], found["left_out"], found["mean_dice_then"]) == (2, 0, 0.75)
    rows = {row["structure"]: row for row in found["structures"]}
    assert rows["hippocampus_anterior"]["then"] == 0.7
    assert {path.name for path in Path("reports/reevaluate/m-1/predictions").iterdir()} == {
        "msd-3.nii.gz",
        "msd-4.nii.gz",
    }
    assert Path(found["report"]).is_file()
    (look,) = audit.read()
    assert (look.event, look.facts["cases"]) == ("evaluate", 2)
    monkeypatch.setattr(growth, "trained_on", lambda *_of: held_out)
    assert reevaluating.reevaluate("models:/m@champion")["cases"] == 0


def version(model: str, folder: Path) -> registry.RegisteredModel:
    record = {"weights_sha256": weights_file.digest(folder), "conditions": Conditions.of_here(0.5).to_json()}
    found = registry.RegisteredModel("m", int(model[-1]), record, "")
    object.__setattr__(found, "weights", lambda: folder)  # frozen; no MLflow holds it
    return found
