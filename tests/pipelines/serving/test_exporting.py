"""Exports: others' programs give the label maps that `medseg predict` gives, and MONAI finds its bundle in order."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.release import audit
from pipelines.serving import exporting, monai_bundle, onnx_export
from pipelines.serving.exportable import Exportable
from pipelines.serving.exporting import export
from pipelines.serving.from_files import segment_files
from tests.pipelines.serving import exports

SAME = 0.9999  # of voxels
# What the published schema demands at least; MONAI would fetch that, and takes the one that lies there instead.
SCHEMA = {
    "type": "object",
    "required": [
        "schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
        "description", "authors", "copyright", "network_data_format",
    ],
}  # fmt: skip
VERIFIED = """
import sys
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

schema, scans, labels = sys.argv[1:]
files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
verify_metadata(meta_file=files["meta_file"], filepath=schema)
verify_net_in_out(net_id="network_def", device="cpu", **files)
flow = ConfigWorkflow(workflow_type="infer", **files, dataset_dir=scans, output_dir=labels)
flow.initialize()
assert not flow.check_properties(), flow.check_properties()
flow.run()
flow.finalize()
"""


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Exportable:
    return exports.version(tmp_path_factory.mktemp("version") / "weights", flips=(2,))


@pytest.fixture(scope="module")
def onnx(version: Exportable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    onnx_export.write(folder, version)
    return folder


@pytest.fixture(scope="module")
def python_without_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exports.environment_without_torch(tmp_path_factory.mktemp("environment"))


def scans(folder: Path) -> dict[str, Path]:
    made = {"CT": exports.scan(folder / "ct.nii.gz")}
    for seed, name in enumerate(("T1", "T2"), start=1):
        made[name] = exports.scan(folder / "m" / f"{name}.nii.gz", seed, 0)
    return made


def expected(version: Exportable, files: dict[str, Path]) -> np.ndarray:
    label = segment_files(version.segmenter, files, None, version.bounds)[0].label
    assert len(np.unique(label)) > 1
    return label


def run(python: Path, folder: Path, *words: object, at: Path) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(python), str(folder / "medseg-run"), *map(str, words)]
    return subprocess.run(command, cwd=at, env=plain, capture_output=True, text=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("modalities", [["CT"], ["T1", "T2"], ["T1"]])
def test_without_torch_the_label_map_is_that_of_torch(
    version: Exportable, onnx: Path, python_without_torch: Path, tmp_path: Path, modalities: list[str]
) -> None:
    nothing = subprocess.run([str(python_without_torch), "-c", "import torch"], capture_output=True, cwd=tmp_path)
    assert b"ModuleNotFoundError" in nothing.stderr
    files = {name: file for name, file in scans(tmp_path).items() if name in modalities}
    words = [f"{name}={file}" for name, file in files.items()]
    done = run(python_without_torch, onnx, *words, tmp_path / "out.nii.gz", at=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "m version 1: not released, not for clinical use" in done.stderr
    assert ("T2 is missing" in done.stderr) == (modalities == ["T1"])
    found = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(found.affine, exports.AFFINE, atol=1e-5)
    assert (np.asarray(found.dataobj) == expected(version, files)).mean() >= SAME
    assert bytes(found.header["descrip"]).startswith(b"medsegformer label map")


@pytest.mark.timeout(900)
def test_what_prediction_refuses_the_runner_refuses_in_a_line(
    onnx: Path, python_without_torch: Path, tmp_path: Path
) -> None:
    scan = exports.scan(tmp_path / "scan.nii.gz", low=0)
    for words, told in (
        ([scan, "out.nii.gz"], "the model knows CT, T1, T2; say which this scan is with --modality"),
        ([scan, "out.nii.gz", "--modality", "CT"], "has no negative value: no Hounsfield units, or no intercept"),
        ([f"FLAIR={scan}", "out.nii.gz"], "modality FLAIR was not trained"),
        ([f"CT={scan}", scan], "is the scan itself; name another"),
        (["CT=gone.nii.gz", "out.nii.gz"], "file is missing"),
        ([f"CT={scan}", "out.mha"], "label maps are written as .nii.gz or .nii"),
    ):
        done = run(python_without_torch, onnx, *words, at=tmp_path)
        assert (done.returncode, told in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", ["kits", "both"])
def test_monai_verifies_its_bundle_runs_it_and_gives_the_same_labels(
    version: Exportable, tmp_path: Path, source: str
) -> None:
    bundle, made = tmp_path / "bundle", scans(tmp_path / "scans")
    monai_bundle.write(bundle, version, source)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    places = [tmp_path / "schema.json", tmp_path / "scans", tmp_path / "labels"]
    done = subprocess.run(
        [sys.executable, "-c", VERIFIED, *map(str, places)],
        cwd=bundle, env={**os.environ, "PYTHONPATH": str(bundle)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr  # each of the checks raises
    files = {"CT": made["CT"]} if source == "kits" else {name: made[name] for name in ("T1", "T2")}
    found = nib.load(tmp_path / "labels" / ("ct_seg.nii.gz" if source == "kits" else "m_seg.nii.gz"))
    np.testing.assert_allclose(found.affine, exports.AFFINE, atol=1e-5)
    assert (np.asarray(found.dataobj) == expected(version, files)).mean() >= SAME
    assert "Apache License" in (bundle / "LICENSE").read_text()


def test_an_export_is_refused_before_anything_is_written_and_told_in_the_audit_log(
    version: Exportable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting.Exportable, "find", lambda *_: version)
    for to, folder, source, told in (
        ("tensorrt", "out", None, "is none of monai, onnx"),
        ("monai", ".", None, "exists"),
        ("monai", "out", None, "was trained on several sources; choose one with --source: both, kits"),
        ("monai", "out", "lits", "knows no source lits"),
        ("onnx", "out", "kits", "holds all training sources; leave it out"),
    ):
        with pytest.raises(ValueError, match=told):
            export("models:/m/1", to, tmp_path / folder, source)
    assert not (tmp_path / "out").exists()
    export("models:/m/1", "monai", tmp_path / "out", "kits")
    (line,) = audit.read(("export",))
    assert line.facts == {"record_sha256": version.record_sha256, "to": "monai"}
