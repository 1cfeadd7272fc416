"""A prediction: what it refuses, that no scan keeps the others from being done, and that a repeat does what is left."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from model import weights_file
from pipelines import params
from pipelines.cases.preparation import SourceRecord
from pipelines.release import audit, record, registry, store
from pipelines.scans.volume import VolumeError
from pipelines.scans.volume_geometry import Volume
from pipelines.serving import answering, footprint
from pipelines.serving.as_trained import nearest_source
from pipelines.serving.conditions import Conditions
from pipelines.serving.prediction import predict
from pipelines.serving.segmenter import Segmented, Segmenter
from pipelines.work.digests import sha256_of
from tests.conftest import REPOSITORY, save
from tests.pipelines.serving.networks import KNOWN, write_weights

MODEL = "models:/medsegformer@champion"
AFFINE = np.diag([-2.0, -2.0, 2.0, 1])
SOURCES = {
    "acdc": SourceRecord(("CINE",), ("left_ventricle",), (10.0, 1.5, 1.5), (10.0, 1.5, 1.5)),
    "brats": SourceRecord(("FLAIR", "T1CE"), ("tumour_oedema",), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0)),
    "knees": SourceRecord(("CINE",), ("left_ventricle",), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
}


@pytest.mark.parametrize(
    ("model", "labels_of", "told"),
    [
        ("medsegformer", None, "must look like models:/NAME@ALIAS"),
        ("models:/medsegformer", None, "must look like models:/NAME@ALIAS"),
        (MODEL, "spleen", "is not a label contract; known: acdc"),
        (MODEL, "1=kidney 2=kidney 3=spleen", "values 1, 2 all mean kidney"),
        (MODEL, "99999999=kidney", "label value 99999999 .* is above 16777216"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_loaded(
    tmp_path: Path, model: str, labels_of: str | None, told: str
) -> None:
    scan = save(tmp_path / "scan.nii.gz", np.ones((4, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=told):
        predict(scan, tmp_path / "out.nii.gz", model, labels_of)


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no NIfTI scan"):
        predict(tmp_path, tmp_path.parent / "out", MODEL)
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        predict(tmp_path / "gone", tmp_path / "out", MODEL)


def volume(*spacing_mm: float) -> Volume:
    d, h, w = spacing_mm
    return Volume(np.zeros((2, 2, 2), np.float32), (d, h, w), np.eye(4), (2, 2, 2))


def test_a_scan_is_met_as_the_training_source_most_like_it() -> None:
    assert nearest_source(SOURCES, {"CINE": volume(8, 1.4, 1.4)}) == "acdc"
    assert nearest_source(SOURCES, {"CINE": volume(1, 0.9, 0.9)}) == "knees"
    assert nearest_source(SOURCES, {"FLAIR": volume(10, 1.5, 1.5)}) == "brats"


def test_a_modality_that_was_never_trained_is_refused() -> None:
    with pytest.raises(VolumeError, match="modality CT was not trained; the model knows CINE, FLAIR, T1CE"):
        nearest_source(SOURCES, {"CT": volume(1, 1, 1)})


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("model") / "weights")


@pytest.fixture
def scans(tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two scans of a body in air, in a folder; the version is the small network's; the bounds are the profiles'."""
    content = {"weights_sha256": weights_file.digest(network), "conditions": Conditions.of_here(0.5).to_json()}
    monkeypatch.setattr(store, "find", lambda sha256, run_id: network)
    monkeypatch.setattr(registry, "find", lambda _: registry.RegisteredModel("m", 1, content, "run"))
    bounds = params.load(REPOSITORY / "params.yaml").ingest.quality
    monkeypatch.setattr(answering.examination, "bounds_here", lambda: bounds)
    monkeypatch.setenv("MEDSEG_WORKERS", "1")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)  # the audit log is its
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.nii.gz", body(), AFFINE)
    return tmp_path / "in"


def body() -> np.ndarray:
    """CT of 24^3 voxels of 2 mm: noise as of tissue and bone in air."""
    image = np.full((24, 24, 24), -1000, np.int16)
    image[4:20, 4:20, 2:22] = np.random.default_rng(0).normal(100, 200, (16, 16, 20)).clip(-300, 1600)
    return image


def odd(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int16)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (odd(body() + 1024), "has no negative value: no Hounsfield units, or no intercept"),
        (odd((body().clip(-160, 240) + 160) * (255 / 400)), "spans less than 300 HU; windowed or rescaled"),
        (odd(np.full((24, 24, 24), -1000)), "every voxel has the same value"),
        (odd(body()[:3, :3, :3] + np.arange(3)), "field of view: 6 x 6 x 6 mm"),
    ],
)
def test_what_ingest_refuses_prediction_refuses_and_the_others_go_on(
    scans: Path, tmp_path: Path, image: np.ndarray, told: str
) -> None:
    save(scans / "a.nii.gz", image, AFFINE)
    paths = predict(scans, tmp_path / "out", MODEL)
    assert next(paths) == tmp_path / "out" / "b.nii.gz"
    with pytest.raises(ValueError, match="1 of 2 scans could not be segmented: scan 1: ") as refused:
        next(paths)
    assert told in str(refused.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.nii.gz"]


def test_what_ingest_would_note_is_told(scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(scans / "a.nii.gz", body()[:, :, 8:12], AFFINE)
    assert len(list(predict(scans, tmp_path / "out", MODEL))) == 2
    assert "slices: 4, below 5" in caplog.text


def test_a_kind_of_what_the_model_knows_is_segmented_and_told(
    scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (scans / "a.nii.gz").rename(scans / "a_cbct.nii.gz")
    assert [path.name for path in predict(scans, tmp_path / "out", MODEL)] == ["a.nii.gz", "b.nii.gz"]
    assert "CBCT is taken as CT, which the model was trained on" in caplog.text
    with pytest.raises(ValueError, match="modality T1 was not trained; the model knows CT"):
        list(predict(scans / "b.nii.gz", tmp_path / "b.nii.gz", MODEL, modality="t1w"))


def test_a_label_map_is_on_the_scans_grid_in_the_form_that_its_name_says(scans: Path, tmp_path: Path) -> None:
    for name in ("out.nii", "out.nii.gz"):
        assert list(predict(scans / "a.nii.gz", tmp_path / name, MODEL)) == [tmp_path / name]
        label = nib.load(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")
        np.testing.assert_allclose(label.affine, AFFINE)
        assert set(np.unique(np.asarray(label.dataobj))) <= {0, *KNOWN}


def test_a_folder_in_a_layout_of_training_is_segmented_without_its_labels(scans: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    save(folder / "s0001/ct.nii.gz", body(), AFFINE)
    save(folder / "s0001/segmentations/liver.nii.gz", np.ones((24, 24, 24), np.uint8), AFFINE)
    both = np.stack([body(), abs(body())], -1)
    save(folder / "Task20_Both/imagesTr/x.nii.gz", both, AFFINE)
    training = [{"image": "imagesTr/x.nii.gz", "label": "labelsTr/x.nii.gz"}]
    index = {"name": "both", "modality": {"0": "CT", "1": "PET"}, "labels": {"1": "liver"}, "training": training}
    (folder / "Task20_Both/dataset.json").write_text(json.dumps(index))
    made = list(predict(folder, tmp_path / "out", MODEL))
    assert [path.relative_to(tmp_path / "out").as_posix() for path in made] == [
        "Task20_Both/imagesTr/x.nii.gz",
        "s0001/ct.nii.gz",
    ]
    assert {nib.load(path).shape for path in made} == {(24, 24, 24)}
    assert list(predict(folder, tmp_path / "out", MODEL)) == []


def test_own_values_above_255_are_kept(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = np.array(KNOWN, np.uint8)[np.indices((24, 24, 24)).sum(0) % 2]
    monkeypatch.setattr(Segmenter, "segment", lambda *_: Segmented(found, found, {}, {}))
    list(predict(scans / "a.nii.gz", tmp_path / "out.nii.gz", MODEL, "256=kidney 70000=spleen"))
    assert set(np.unique(np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj))) == {256, 70000}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "does not fit in memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory\nframe #0"), "does not fit in memory"),
        (MemoryError(), "does not fit in memory"),
        (KeyError("kits"), "KeyError: 'kits'"),
    ],
)
def test_whatever_happens_to_a_scan_the_others_go_on(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fail(segmenter: Segmenter, files: dict[str, Path], *arguments: object) -> object:
        if files[""].name == "a.nii.gz":
            raise error
        return segment(segmenter, files, *arguments)

    segment = answering.segment_files
    monkeypatch.setattr(answering, "segment_files", fail)
    paths = predict(scans, tmp_path / "out", MODEL)
    assert next(paths).name == "b.nii.gz"
    with pytest.raises(ValueError, match=f"1 of 2 scans could not be segmented: scan 1: {told}") as failed:
        next(paths)
    assert "frame #0" not in str(failed.value)


def test_a_scan_that_cannot_fit_is_named_before_it_is_read(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(scans / "large.nii.gz", np.zeros((200, 200, 200), np.uint8), AFFINE)
    monkeypatch.setattr(footprint, "free_here", lambda: 150 << 20)
    paths = predict(scans, tmp_path / "out", MODEL)
    assert [next(paths).name, next(paths).name] == ["a.nii.gz", "b.nii.gz"]
    with pytest.raises(ValueError, match=r"scan 3: needs 0\.\d+ GiB, 0\.15 are free"):
        next(paths)


def test_a_repeat_makes_what_is_missing_and_replaces_only_on_request(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = list(predict(scans, out, MODEL))
    assert [path.name for path in first] == ["a.nii.gz", "b.nii.gz"]
    first[1].unlink()
    assert list(predict(scans, out, MODEL)) == [first[1]]
    assert list(predict(scans, out, MODEL, overwrite=True)) == first
    os.utime(scans / "a.nii.gz", ns=(0, 0))
    with pytest.raises(ValueError, match=r"a.nii.gz exists, and is not of this scan, .*; --overwrite replaces it"):
        predict(scans, out, MODEL)


def test_every_prediction_is_in_the_audit_log_by_content(scans: Path, tmp_path: Path) -> None:
    """And by nothing else: a file may be called as its patient is."""
    (scans / "b.nii.gz").write_bytes(b"no scan")
    with pytest.raises(ValueError, match="1 of 2 scans could not be segmented"):
        list(predict(scans, tmp_path / "out", MODEL))
    (line,) = audit.read(("predict",))
    assert line.facts == {
        "record_sha256": record.digest(registry.find(MODEL).record),
        "inputs": [sha256_of(scans / "a.nii.gz")],
        "outputs": [sha256_of(tmp_path / "out/a.nii.gz")],
    }


def test_a_file_of_somebody_else_is_never_replaced(scans: Path, tmp_path: Path) -> None:
    save(tmp_path / "other.nii.gz", np.ones((2, 2, 2), np.uint8))
    before = (tmp_path / "other.nii.gz").read_bytes()
    with pytest.raises(ValueError, match="--overwrite"):
        predict(scans / "a.nii.gz", tmp_path / "other.nii.gz", MODEL)
    assert (tmp_path / "other.nii.gz").read_bytes() == before


def test_several_scans_at_a_time_give_the_same_label_maps(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {path.name: path.read_bytes() for path in predict(scans, tmp_path / "one", MODEL)}
    monkeypatch.setenv("MEDSEG_WORKERS", "2")
    two = {path.name: path.read_bytes() for path in predict(scans, tmp_path / "two", MODEL)}
    assert one == two
