"""The main job end to end, on phantoms, with the real DVC, Prefect and MLflow: one project made once, looked at by all.

A small copy of the project is run through `medseg run`, a second one through bare `dvc repro`.
"""

import csv
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.numpy import load_file

from model.weights_file import read_card
from pipelines.release import registry, tracking
from pipelines.scans import manifest
from pipelines.training import allocators
from tests import in_process
from tests.conftest import copy_checkout

BIN = Path(sys.executable).parent
LOSSES = "model/tasks/losses.py"
# The environment of a training stage whose one rank is this process.
THE_ONLY_RANK = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", **allocators.SETTINGS}


def copy_project(target: Path) -> Path:
    """The checkout as a project, in a repository of its own, with parameters cut down to seconds."""
    shorten(copy_checkout(target))
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)
    commit(target, "copy")
    return target


def commit(project: Path, message: str) -> None:
    for command in (["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message]):
        subprocess.run(["git", *command], cwd=project, check=True)


def shorten(project: Path, **blocks: dict[str, Any]) -> None:
    """Parameters cut down to seconds; `blocks`: changes on top."""
    small = {"patch_size": {"default": [16, 16, 16], "acdc": [8, 24, 24]}}
    short: dict[str, dict[str, Any]] = {
        # 16-bit products take minutes where the processor has none; what they compute is for tests/model to say
        "train": {"steps": 8, "warmup_steps": 2, "validate_every": 4, "precision": "float32", **small},
        "pretrain": {"steps": 2, "warmup_steps": 1, "validate_every": 2, "precision": "float32", **small},
        "ingest.phantom": {"cases_per_layout": 9, "size": 24},
    }
    for block, values in short.items():
        for name, value in {**values, **blocks.get(block, {})}.items():
            set_params(project, **{f"{block}.{name}": value})


def set_params(project: Path, **changes: Any) -> None:
    yaml = YAML()
    content = yaml.load((project / "params.yaml").read_text())
    for key, value in changes.items():
        *parents, last = key.split(".")
        block = content
        for parent in parents:
            block = block[parent]
        block[last] = value
    with (project / "params.yaml").open("w") as file:
        yaml.dump(content, file)


def call(project: Path, *command: str, expect: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment in `project`, as a user would; `variables` on top of ours."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "PREFECT_API"))
    }
    environment.update(PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=str(project), COLUMNS="160")
    environment.setdefault("MEDSEG_RANKS", "1")  # several ranks: tests/pipelines/training/test_survival.py
    environment.update(variables)
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == expect, f"{command}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


STAGES = """
import importlib, sys
for stage in sys.argv[1:]:
    importlib.import_module(f"pipelines.stages.{stage}").main()
"""


def run_stages(project: Path, *names: str) -> None:
    """In one process of the project's own code."""
    call(project, sys.executable, "-c", STAGES, *names)


def medseg(project: Path, *arguments: str) -> str:
    """What the command prints, in this process."""
    done = in_process.medseg(project, *arguments)
    assert done.exit_code == 0, f"{arguments}: {done.output[-3000:]} {done.exception!r}"
    return done.stdout


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    project = copy_project(tmp_path_factory.mktemp("flow") / "project")
    return project, call(project, "medseg", "run").stdout


@pytest.fixture
def project(run_once: tuple[Path, str]) -> Iterator[Path]:
    """The finished project; whatever a test changes is put back."""
    folder, _ = run_once
    kept = {
        name: (folder / name).read_bytes() for name in ("params.yaml", "dvc.lock", "pipelines/serving/prediction.py")
    }
    yield folder
    for name, content in kept.items():
        (folder / name).write_bytes(content)


def status(project: Path) -> dict[str, Any]:
    return dict(json.loads(medseg(project, "status", "--json")))


def stale_by_its_own_code(project: Path) -> list[str]:
    """The stages that are, asked where the project's copy of the code is what runs."""
    found = json.loads(call(project, "medseg", "status", "--json").stdout)["stages"]
    return [name for name, state in found.items() if state == "stale"]


def holder(project: Path, alias: str = "candidate") -> str:
    """The version with this alias, from the registry's own table: `medseg status` takes seconds."""
    with closing(sqlite3.connect(project / ".medseg/mlflow.db")) as store:
        (row,) = store.execute("SELECT version FROM registered_model_aliases WHERE alias = ?", (alias,))
    return str(row[0])


def test_a_run_ends_with_dice_the_version_and_where_to_look(run_once: tuple[Path, str]) -> None:
    project, told = run_once
    for words in ("left_ventricle", "whole_tumour", "kidney", "medsegformer", "reports/evaluate/index.html"):
        assert words in told
    for file in ("metrics.json", "cases.csv", "cases.parquet", "summary.json", "index.html"):
        assert (project / "reports/evaluate" / file).stat().st_size > 100
    metrics = json.loads((project / "reports/evaluate/metrics.json").read_text())
    with (project / "reports/evaluate/cases.csv").open() as file:
        whole = [float(row["dice"]) for row in csv.DictReader(file) if row["structure"] == "whole_tumour"]
    assert metrics["dice"]["whole_tumour"] == pytest.approx(np.mean(whole), abs=1e-5)


def test_after_a_run_everything_is_fresh_and_registered(project: Path) -> None:
    found = status(project)
    assert set(found["stages"].values()) == {"fresh"}
    assert found["identity_consistent"] is True
    assert "candidate" in found["registered"]["aliases"]
    (stored,) = (project / ".medseg/weights").glob("*/model.safetensors")
    assert stored.samefile(project / "models/train/model.safetensors")  # one file, however many refer to it


def test_the_audit_log_tells_of_all_that_made_the_version(project: Path) -> None:
    lines = json.loads(medseg(project, "audit", "show", "--last", "1000", "--json"))["lines"]
    first = {line["event"]: line["facts"] for line in reversed(lines)}
    made = ["ingest", "pretrain.start", "pretrain", "train.start", "train", "evaluate", "register"]
    assert [line["event"] for line in lines][: len(made)] == made
    assert first["train.start"]["run"] == first["train"]["run"]
    assert {"plan_sha256", "params_sha256", "trainer", "git_commit"} <= first["train.start"].keys()
    assert (first["train.start"]["author"], first["train.start"]["committer"]) == ("t@t", "t@t")
    assert len({first[event]["weights_sha256"] for event in ("train", "evaluate", "register")}) == 1
    assert first["ingest"]["test_set_sha256"] == first["evaluate"]["test_set_sha256"]
    assert json.loads(medseg(project, "audit", "verify", "--json"))["ok"]


def test_a_structure_declared_and_a_comment_leave_every_result_fresh_and_what_scans_or_stages_use_does_not(
    project: Path,
) -> None:
    own, layers, losses = (project / name for name in ("structures.yaml", "model/network/layers.py", LOSSES))
    texts = {path: path.read_text() for path in (own, layers, losses)}
    try:
        medseg(project, "structures", "add", "snowflake_lesion", "--in", "liver")
        layers.write_text(f"# a comment\n{texts[layers]}")
        assert stale_by_its_own_code(project) == []
        assert re.findall(r"Running stage '(\w+)'", call(project, "dvc", "repro").stdout) == ["code", "inventory"]
        changed = texts[losses].replace("DICE_SMOOTHING = 0.5", "DICE_SMOOTHING = 0.6")
        assert changed != texts[losses]
        losses.write_text(changed)
        assert stale_by_its_own_code(project) == ["train", "evaluate", "register"]
        own.write_text(f"{own.read_text()}kidney_tumour: {{tolerance_mm: 9}}\n")
        stale = [name for name, state in status(project)["stages"].items() if state == "stale"]
        assert stale[:2] == ["deidentify", "ingest"]
    finally:
        for path, text in texts.items():
            path.write_text(text)


def test_nothing_changed_means_nothing_done(project: Path) -> None:
    before = (project / "dvc.lock").read_bytes()
    told = call(project, "dvc", "repro").stdout
    assert re.findall(r"Running stage '(\w+)'", told) == ["code", "inventory"]  # the questions themselves
    assert (project / "dvc.lock").read_bytes() == before


def test_a_run_with_nothing_changed_registers_no_new_version(project: Path) -> None:
    before = holder(project)
    told = call(project, "medseg", "run")
    assert re.findall(r"Running stage '(\w+)'", told.stderr) == ["code", "inventory"]
    assert holder(project) == before
    with closing(sqlite3.connect(project / ".medseg/mlflow.db")) as store:
        assert store.execute("SELECT MAX(version) FROM model_versions").fetchone() == (int(before),)


def test_a_changed_learning_rate_concerns_training_and_what_follows(project: Path) -> None:
    set_params(project, **{"train.learning_rate": 0.002})
    stages = status(project)["stages"]
    assert [name for name, state in stages.items() if state == "stale"] == ["train", "evaluate", "register"]
    assert stages["preprocess"] == stages["ingest"] == "fresh"


AUDIT = """
import os, sys
log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def opened(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        os.write(log, (os.path.realpath(arguments[0]) + "\\n").encode())
sys.addaudithook(opened)
"""


@pytest.fixture(scope="module")
def by_bare_dvc(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """The same by `dvc repro`, and every file that any process opened while `pretrain` ran.

    Meanwhile the held-out case files are spoilt; while `train` runs they are away.
    """
    folder = tmp_path_factory.mktemp("bare")
    project, held_out = copy_project(folder / "project"), folder / "project/data/cases/test"
    (folder / "sitecustomize.py").write_text(AUDIT)
    call(project, "dvc", "repro", "preprocess")
    shutil.move(held_out, folder / "kept")
    held_out.mkdir()
    for path in (folder / "kept").iterdir():
        (held_out / path.name).write_bytes(b"spoilt")
    log, audited = folder / "opened", f"{folder}{os.pathsep}{project}"
    call(project, "dvc", "repro", "--single-item", "pretrain", AUDIT_LOG=str(log), PYTHONPATH=audited)
    shutil.rmtree(held_out)
    call(project, "dvc", "repro", "--single-item", "train")
    shutil.move(folder / "kept", held_out)
    told = call(project, "dvc", "repro").stdout
    assert re.findall(r"Running stage '(\w+)'", told) == ["code", "inventory", "evaluate", "register"]
    return project, set(log.read_text().splitlines())


def test_bare_dvc_gives_the_same_lock_and_the_same_weights_to_the_bit(
    run_once: tuple[Path, str], by_bare_dvc: tuple[Path, set[str]]
) -> None:
    folders = project, other = run_once[0], by_bare_dvc[0]
    assert (other / "dvc.lock").read_text() == (project / "dvc.lock").read_text()
    one, two = (load_file(folder / "models/train/model.safetensors") for folder in folders)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_held_out_case_files_are_not_needed_to_train(
    run_once: tuple[Path, str], by_bare_dvc: tuple[Path, set[str]]
) -> None:
    """They were away. The weights are the same to the bit."""
    one, two = (folder / "models/train/model.safetensors" for folder in (run_once[0], by_bare_dvc[0]))
    assert one.read_bytes() == two.read_bytes()


def test_pretraining_opens_no_file_of_a_held_out_patient(
    run_once: tuple[Path, str], by_bare_dvc: tuple[Path, set[str]]
) -> None:
    """And its encoder is the same, whatever is in their case files."""
    project, opened = by_bare_dvc
    held_out = {row.patient for row in manifest.read(project / "data/manifest.parquet") if row.split == "test"}
    rows = [row for row in manifest.read(project / "data/manifest.parquet") if row.patient in held_out]
    files = {str((project / file.path).resolve()) for row in rows for file in row.files}
    files |= {str(path.resolve()) for path in (project / "data/cases/test").iterdir()}
    assert len(files) >= 2 * len(rows) > 0
    assert opened >= {str(path.resolve()) for path in (project / "data/cases/train").iterdir()}
    assert not opened & files
    one, two = (folder / "models/pretrain/encoder.safetensors" for folder in (run_once[0], project))
    assert one.read_bytes() == two.read_bytes()


def test_pretraining_leaves_an_encoder_with_its_identity_and_pictures_in_the_report_and_in_mlflow(
    project: Path,
) -> None:
    with safe_open(project / "models/pretrain/encoder.safetensors", "np") as file:
        card = json.loads(file.metadata()["medsegformer"])
    assert set(card["identity"]) == {"inputs_sha256", "manifest_sha256", "params_sha256"}
    assert all(card["identity"].values())
    assert sum(card["scans"].values()) == len(list((project / "data/cases/train").iterdir()))
    pictures = {f"{name}.png" for name in card["modalities"]}
    assert {path.name for path in (project / "reports/pretrain").glob("*.png")} == pictures
    metrics = json.loads((project / "reports/pretrain/metrics.json").read_text())
    assert metrics["loss_over_baseline"] == pytest.approx(1 - metrics["validation_explained.mean"], abs=1e-5)
    assert {"probe_dice.mean", "random_probe_dice.mean"} <= set(metrics)
    assert {path.name for path in (project / ".medseg/mlartifacts").glob("*/artifacts/pretrain/*.png")} == pictures


def test_a_changed_pretraining_concerns_what_follows_and_nothing_before(project: Path) -> None:
    set_params(project, **{"pretrain.mask_fraction": 0.7})
    stages = status(project)["stages"]
    assert [name for name, state in stages.items() if state == "stale"] == ["pretrain", "train", "evaluate", "register"]


def test_curves_of_the_run_are_in_mlflow(project: Path) -> None:
    with closing(sqlite3.connect(project / ".medseg/mlflow.db")) as store:
        curves = {key for (key,) in store.execute("SELECT DISTINCT key FROM metrics")}
        steps = store.execute("SELECT COUNT(*) FROM metrics WHERE key = 'validation_dice.mean'").fetchone()[0]
    assert curves >= {"loss", "learning_rate", "voxels_per_s", "validation_dice.mean", "dice.mean", "dice.kidney"}
    assert steps >= 2


def scans(project: Path, pattern: str) -> list[Path]:
    return sorted((project / "data/phantom").glob(pattern))


def test_a_prediction_lies_on_the_scans_own_grid(project: Path, tmp_path: Path) -> None:
    scan = scans(project, "kits/*/imaging.nii.gz")[0]
    medseg(project, "predict", str(scan), str(tmp_path / "out.nii.gz"), "--modality", "CT")
    image, label = nib.load(scan), nib.load(tmp_path / "out.nii.gz")
    assert label.shape == image.shape
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-5)
    assert set(np.unique(np.asarray(label.dataobj))) <= {0, 9, 10, 11}


def test_a_folder_of_several_sequences_is_one_scan_a_case(project: Path, tmp_path: Path) -> None:
    case = scans(project, "brats/*")[0]
    medseg(project, "predict", str(case), str(tmp_path / "out"), "--labels-of", "brats")
    written = list((tmp_path / "out").iterdir())
    assert [path.name for path in written] == [f"{case.name}.nii.gz"]
    assert set(np.unique(np.asarray(nib.load(written[0]).dataobj))) <= {0, 1, 2, 4}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--modality", "XRAY"], "modality 'XRAY' is unknown"), ([], "say which this scan is with --modality")],
)
def test_a_prediction_that_cannot_be_made_says_why_in_one_line(
    project: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    scan = scans(project, "kits/*/imaging.nii.gz")[0]
    done = in_process.medseg(project, "predict", str(scan), str(tmp_path / "out.nii.gz"), *arguments)
    assert done.exit_code == 1, done.output
    refusals = [line for line in done.stderr.splitlines() if line.startswith("medseg: ")]
    assert len(refusals) == 1
    assert told in refusals[0]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_weights_carry_the_run_identity_and_a_changed_file_is_not_loaded(project: Path, tmp_path: Path) -> None:
    """Both, on the stored weights that a version refers to."""
    (stored,) = (project / ".medseg/weights").glob("*/model.safetensors")
    card = read_card(stored.parent)
    assert set(card.identity) == {"inputs_sha256", "manifest_sha256", "params_sha256"}
    assert all(card.identity.values())
    assert not list((project / ".medseg/mlartifacts").rglob("*.safetensors"))
    content = stored.read_bytes()
    try:
        stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        scan = scans(project, "kits/*/imaging.nii.gz")[0]
        done = in_process.medseg(project, "predict", str(scan), str(tmp_path / "o.nii.gz"), "--modality", "CT")
        assert (done.exit_code, "is not the registered" in done.stderr) == (1, True)
    finally:
        stored.write_bytes(content)


def test_phantoms_are_too_few_for_the_gate_but_their_figures_hold_and_the_version_segments(project: Path) -> None:
    asked = in_process.medseg(project, "gate", "check", holder(project), "--json")
    assert asked.exit_code == 1, asked.output
    told = json.loads(asked.stdout)
    assert told["verdict"] != "passes"
    results = {check["name"]: check["result"] for check in told["checks"]}
    assert results["measured anew"] == results["plan noted before training"] == "passes"
    assert results["enough patients"] == "cannot tell"
    assert "hold out more" in " ".join(told["reasons"])
    scan = scans(project, "kits/*/imaging.nii.gz")[0]
    with in_process.inside(project):
        label = segmented(scan)
    assert (label.shape, label.dtype) == (nib.load(scan).shape, np.uint8)


def segmented(scan: Path) -> np.ndarray:
    """By MLflow's own way to load the candidate of the project that is the working folder."""
    found = tracking.configure().pyfunc.load_model("models:/medsegformer@candidate")
    label: np.ndarray = found.predict([str(scan)], params={"modality": "CT"})[0]
    return label


def test_the_same_weights_registered_again_lie_once_and_both_versions_load_wherever_the_project_lies(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluated otherwise they are another version. Nothing is left among the temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))  # and of this process
    (tmp_path / "temporary").mkdir()
    first = holder(project)
    set_params(project, **{"evaluate.overlap": 0.25})
    told = call(project, "dvc", "repro").stdout
    assert re.findall(r"Running stage '(\w+)'", told) == ["code", "inventory", "evaluate", "register"]
    assert status(project)["registered"] is None  # `dvc repro` makes files, no versions
    for _ in range(2):
        medseg(project, "register")
    found = status(project)
    second = found["registered"]["version"]
    assert (int(second), found["identity_consistent"]) == (int(first) + 1, True)
    moved = project.rename(tmp_path / "moved")
    try:
        scan = scans(moved, "kits/*/imaging.nii.gz")[0]
        (stored,) = (moved / ".medseg/weights").iterdir()
        with in_process.inside(moved):
            found_at = {registry.find(f"models:/medsegformer/{version}").weights() for version in (first, second)}
            label = segmented(scan)
        assert found_at == {stored}
        assert (label.shape, label.dtype) == (nib.load(scan).shape, np.uint8)
    finally:
        moved.rename(project)
    assert not list((tmp_path / "temporary").rglob("*.safetensors"))


def test_an_experiment_and_what_comes_back_from_the_cache_are_registered_as_what_they_are(project: Path) -> None:
    """The experiment runs in a folder that DVC makes for it, and goes to the project's own MLflow."""
    before = holder(project)
    commit(project, "run")
    told = call(project, "dvc", "exp", "run", "--temp", "--name", "short", "-S", "train.steps=4").stdout
    assert re.findall(r"Running stage '(\w+)'", told) == ["code", "inventory", "train", "evaluate", "register"]
    assert "short" in call(project, "dvc", "exp", "show", "--csv").stdout
    call(project, "dvc", "exp", "apply", "short")
    assert "mean_dice" in call(project, "dvc", "metrics", "diff", "--all").stdout
    medseg(project, "register")
    assert int(holder(project)) > int(before)
    set_params(project, **{"train.steps": 8})
    told = call(project, "dvc", "repro").stdout
    assert "Running stage 'train'" not in told  # its outputs come from the cache
    medseg(project, "register")
    assert holder(project) == "1"  # the version that the first run made of the same


def test_a_second_machine_pulls_runs_nothing_anew_and_registers(project: Path, tmp_path: Path) -> None:
    call(project, "dvc", "remote", "add", "--force", "--default", "team", str(tmp_path / "remote"))
    call(project, "dvc", "push")
    commit(project, "trained")
    other = tmp_path / "other"
    call(project, "git", "clone", "-q", str(project), str(other))
    call(other, "dvc", "pull")
    told = call(other, "dvc", "repro").stdout
    assert re.findall(r"Running stage '(\w+)'", told) == ["code", "inventory"]
    assert (other / "dvc.lock").read_bytes() == (project / "dvc.lock").read_bytes()
    medseg(other, "register")
    found = status(other)
    assert (found["registered"]["version"], found["identity_consistent"]) == ("1", True)
    scan = scans(other, "kits/*/imaging.nii.gz")[0]
    medseg(other, "predict", str(scan), str(tmp_path / "out.nii.gz"), "--modality", "CT")
