"""What is written for a scan: every kind, of DICOM and NIfTI, whole or not at all, and known again."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from model import weights_file
from pipelines import params
from pipelines.dicom.finding import DicomFinding, Maker
from pipelines.release import audit, dossier, record, registry, store
from pipelines.scans import manifest
from pipelines.serving import answering
from pipelines.serving.answering import KINDS, Job, checked
from pipelines.serving.conditions import Conditions
from pipelines.serving.familiarity import Familiarity, Known, Rows
from pipelines.serving.prediction import predict
from pipelines.work.digests import sha256_of
from tests.conftest import REPOSITORY, save
from tests.pipelines.dicom import dicom_files
from tests.pipelines.serving.networks import KNOWN, write_weights

MODEL = "models:/medsegformer/1"
OWN_MM = (48.0, 32.0, 33.6)  # the field of view of `body`
VOLUME = {"lower_factor": 0.8, "upper_factor": 1.25, "level": 0.9, "n": 40, "patients": 40, "measured_coverage": 0.9}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("model") / "weights")


@pytest.fixture
def project(tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    content = {
        "weights_sha256": weights_file.digest(network),
        "manifest_sha256": "ab" * 32,
        "conditions": Conditions.of_here(0.5).to_json(),
        "volume": {"kidney": VOLUME, "spleen": {**VOLUME, "lower_factor": None, "upper_factor": None}},
    }
    monkeypatch.setattr(store, "find", lambda sha256, run_id: network)
    monkeypatch.setattr(registry, "find", lambda _: registry.RegisteredModel("medsegformer", 1, content, "run"))
    bounds = params.load(REPOSITORY / "params.yaml").ingest.quality
    monkeypatch.setattr(answering.examination, "bounds_here", lambda: bounds)
    monkeypatch.setenv("MEDSEG_WORKERS", "1")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def body() -> np.ndarray:
    k, r, c = np.meshgrid(*map(np.arange, (12, 40, 48)), indexing="ij")
    inside = ((r - 20) / 15) ** 2 + ((c - 24) / 18) ** 2 < 1
    return np.where(inside, 1040 + 30 * np.sin(k + r / 3) + c, 0).astype(np.int16)


def series(folder: Path, **how: object) -> list[Path]:
    return dicom_files.series(folder, body(), step_mm=(0, 0, 4.0), **how)  # type: ignore[arg-type]


def test_every_kind_of_a_series_says_the_same(project: Path) -> None:
    series(project / "in" / "Quillfeather")
    written = list(predict(project / "in", project / "out", MODEL, to=KINDS))
    ends = (".nii.gz", ".seg.dcm", ".labelmap.dcm", ".rtstruct.dcm", ".sr.dcm", ".png", ".json")
    by_end = {end: next(path for path in written if path.name.endswith(end)) for end in ends}
    assert len(written) == len(ends)
    label = np.asarray(nib.load(by_end[".nii.gz"]).dataobj)
    for end in (".seg.dcm", ".labelmap.dcm"):
        seg = hd.seg.segread(by_end[end])
        found = seg.get_volume(combine_segments=True, allow_missing_positions=True)
        assert np.count_nonzero(found.array) == np.count_nonzero(label)
        assert seg.PatientID == dicom_files.PATIENT
    assert {dcmread(path).Modality for path in written if path.suffix == ".dcm"} == {"SEG", "RTSTRUCT", "SR"}
    report = json.loads(by_end[".json"].read_text())
    voxel_ml = 0.8 * 0.7 * 4 / 1000
    for name, identifier in zip(("kidney", "spleen"), KNOWN, strict=True):
        told = report["structures"][name]
        assert told["volume_ml"] == pytest.approx(np.count_nonzero(label == identifier) * voxel_ml, rel=1e-5)
    kidney = report["structures"]["kidney"]
    if kidney["volume_ml"]:
        assert kidney["interval_ml"] == pytest.approx([0.8 * kidney["volume_ml"], 1.25 * kidney["volume_ml"]])
    assert report["structures"]["spleen"]["interval_ml"] is None
    assert report["made_by"]["mark"] == registry.NOT_RELEASED
    with Image.open(by_end[".png"]) as picture:
        assert picture.width == 960
    (line,) = audit.read(("predict",))
    assert len(line.facts["inputs"]) == 12
    assert len(line.facts["outputs"]) == len(ends)


def knows(project: Path, field_mm: tuple[float, float, float]) -> None:
    """The version's training scans had this field of view."""
    version = registry.find(MODEL)
    rows = Rows(np.tile(np.log(field_mm), (6, 1)), np.arange(6))
    file = project / record.FAMILIARITY
    known = {"kits": {"field": Known.of("field", rows)}}
    Familiarity(version.record["weights_sha256"], known, {"kidney": 1.0}).write(file)
    version.record["evaluation_files"] = {record.FAMILIARITY: sha256_of(file)}
    place = dossier.place(version.record_sha256) / dossier.EVALUATION
    place.mkdir(parents=True, exist_ok=True)
    file.rename(place / file.name)


def test_a_scan_unlike_training_is_told_in_every_answer_or_refused(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    knows(project, (500.0, 500.0, 500.0))
    series(project / "in")
    with pytest.raises(ValueError, match=r"1 of 1 scans .*: unfamiliar scan: field of view: \d.* training 500 to 500"):
        list(predict(project / "in", project / "out", MODEL, to=KINDS, unfamiliar="refuse"))
    assert not list((project / "out").glob("*"))
    written = {path.suffixes[-2] + path.suffix if path.suffix in (".dcm", ".gz") else path.suffix: path
               for path in predict(project / "in", project / "out", MODEL, to=KINDS)}  # fmt: skip
    report = json.loads(written[".json"].read_text())
    assert report["familiarity"]["unfamiliar"] is True
    assert report["familiarity"]["score"] > report["familiarity"]["bound"] == 1
    assert f"unfamiliar scan: {report['familiarity']['reasons'][0]}" in report["warnings"]
    assert report["warnings"][0] in caplog.text
    sure = report["structures"]["kidney"]["confidence"]
    assert any(note.startswith("kidney: confidence") for note in report["warnings"]) is bool(sure)
    for end in (".seg.dcm", ".labelmap.dcm", ".rtstruct.dcm", ".sr.dcm"):
        assert dcmread(written[end]).SeriesDescription == f"medsegformer 1: {registry.NOT_RELEASED}; unfamiliar"
    with pytest.raises(ValueError, match="--unfamiliar perhaps: must be flag or refuse"):
        predict(project / "in", project / "out", MODEL, unfamiliar="perhaps")


def test_a_scan_like_those_of_training_is_not(project: Path) -> None:
    knows(project, OWN_MM)
    series(project / "in")
    (_, report) = predict(project / "in", project / "out", MODEL, to=["nifti", "json"], unfamiliar="refuse")
    told = json.loads(report.read_text())["familiarity"]
    assert (told["unfamiliar"], told["reasons"]) == (False, [])


def test_what_is_not_released_says_so_on_everything(project: Path) -> None:
    series(project / "in")
    for path in predict(project / "in", project / "out", MODEL, to=KINDS):
        if path.suffix == ".dcm":
            told = str(dcmread(path).SeriesDescription)
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                told = picture.info["medsegformer"]
        else:
            told = path.read_text() if path.suffix == ".json" else bytes(nib.load(path).header["descrip"]).decode()
        assert registry.NOT_RELEASED in told, path.name


def test_a_long_name_is_cut_and_what_it_is_worth_is_not() -> None:
    maker = Maker("m" * 63, "12", registry.NOT_RELEASED, remark="unfamiliar")
    told = DicomFinding(None, np.zeros((1, 1, 1)), [], {}, maker, "").description  # type: ignore[arg-type]
    assert len(told) <= 64
    assert told.endswith(f": {registry.NOT_RELEASED}; unfamiliar")


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ("identity", "identity in its record and in its weights differ"),
        ("structures", "structures in its record and in its weights differ"),
        ("manifest", r"manifest\.parquet is not the manifest of the version's record"),
        ("file", r"familiarity\.safetensors is not what the version's record was made of"),
        ("gone", r"familiarity\.safetensors is missing; bring it back"),
        ("weights", r"familiarity\.safetensors is of other weights than the version's"),
    ],
)
def test_a_version_whose_parts_are_not_as_registered_is_refused(project: Path, spoilt: str, told: str) -> None:
    version = registry.find(MODEL)
    if spoilt in ("identity", "structures"):
        version.record[spoilt] = ["liver"]
    elif spoilt == "manifest":
        manifest.write(dossier.place(version.record_sha256) / dossier.MANIFEST, [])
    else:
        sha256 = version.record["weights_sha256"]
        version.record["weights_sha256"] = "0" * 64 if spoilt == "weights" else sha256
        knows(project, OWN_MM)
        version.record["weights_sha256"] = sha256
        kept = next(project.rglob(record.FAMILIARITY))
        if spoilt == "gone":
            kept.unlink()
        elif spoilt == "file":
            kept.write_bytes(kept.read_bytes() + b" ")
        else:
            kept.parents[1].rename(dossier.place(version.record_sha256))
    with pytest.raises(ValueError, match=told):
        Job.of(version)


def test_a_version_without_looks_works_and_says_so(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(project / "scan.nii.gz", body().transpose(2, 1, 0) - 1000, np.diag([-2.0, -2.0, 4.0, 1]))
    (_, report) = predict(project / "scan.nii.gz", project / "out", MODEL, to=["nifti", "json"])
    assert "version 1 cannot tell unfamiliar scans: it was evaluated before" in caplog.text
    assert json.loads(report.read_text())["familiarity"]["score"] is None
    with pytest.raises(ValueError, match=r"cannot tell unfamiliar scans: .*; evaluate and register again"):
        predict(project / "scan.nii.gz", project / "other", MODEL, unfamiliar="refuse")


def test_nothing_identifying_outside_the_dicom_objects(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    series(project / "in" / "Quillfeather")
    (project / "in/Quillfeather/broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x08\0")
    with (
        caplog.at_level("INFO"),
        pytest.raises(ValueError, match=r"1 of 2 scans .*dicom-unreadable-1: a DICOM file") as refused,
    ):
        list(predict(project / "in", project / "out", MODEL, to=["nifti", "json", "png"]))
    told = caplog.text + str(refused.value)
    for path in (project / "out").iterdir():
        told += path.name + path.read_bytes().decode("latin-1")
    assert not any(word in told for word in ("Quillfeather", dicom_files.PATIENT, dicom_files.uid("study", "a")))


def test_a_repeat_knows_every_kind_of_its_own(project: Path) -> None:
    series(project / "in")
    first = list(predict(project / "in", project / "out", MODEL, to=KINDS))
    assert list(predict(project / "in", project / "out", MODEL, to=KINDS)) == []
    uids = {path: dcmread(path).SOPInstanceUID for path in first if path.suffix == ".dcm"}
    first[-1].unlink()
    assert list(predict(project / "in", project / "out", MODEL, to=KINDS)) == first
    assert uids == {path: dcmread(path).SOPInstanceUID for path in uids}
    series(project / "in", change=lambda dataset, k: setattr(dataset, "KVP", 80))
    with pytest.raises(ValueError, match="exists, and is not of this scan"):
        predict(project / "in", project / "out", MODEL, to=KINDS)


def test_a_zip_is_the_same_as_its_folder_and_two_series_are_two_scans(project: Path) -> None:
    series(project / "in" / "one")
    series(project / "in" / "two", series="t", origin_mm=(0, 0, 0))
    with zipfile.ZipFile(project / "in.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for path in (project / "in").rglob("*.dcm"):
            packed.write(path, f"../../{path.name}{path.parent.name}")
    of_folder = list(predict(project / "in", project / "a", MODEL))
    of_zip = list(predict(project / "in.zip", project / "b", MODEL))
    assert [path.name for path in of_folder] == [path.name for path in of_zip]
    assert len(of_folder) == 2
    assert [path.read_bytes() for path in of_folder] == [path.read_bytes() for path in of_zip]


def test_a_bomb_and_a_broken_zip_are_refused(project: Path) -> None:
    with zipfile.ZipFile(project / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.dcm", b"\0" * (64 << 20))
    with pytest.raises(ValueError, match=r"bomb\.zip unpacks to more than may be"):
        predict(project / "bomb.zip", project / "out", MODEL)
    whole = (project / "bomb.zip").read_bytes()
    (project / "bomb.zip").write_bytes(whole[:40] + b"xxxxxxxx" + whole[48:])
    with pytest.raises(ValueError, match=r"bomb\.zip is no readable zip"):
        predict(project / "bomb.zip", project / "out", MODEL)


def test_one_bad_series_does_not_stop_the_others(project: Path) -> None:
    series(project / "in" / "good")
    bad = series(project / "in" / "bad", series="t")
    bad[5].unlink()
    made = []
    with pytest.raises(ValueError, match=r"1 of 2 scans .* the series: 1 slice is missing"):
        made.extend(predict(project / "in", project / "out", MODEL))
    assert len(list((project / "out").iterdir())) == 1


def test_nifti_has_a_report_and_a_picture_but_no_dicom(project: Path) -> None:
    save(project / "scan.nii.gz", body().transpose(2, 1, 0) - 1000, np.diag([-2.0, -2.0, 4.0, 1]))
    target = project / "out.nii.gz"
    written = list(predict(project / "scan.nii.gz", target, MODEL, to=["nifti", "json", "png"]))
    assert {path.name for path in written} == {"out.nii.gz", "out.json", "out.png"}
    with pytest.raises(ValueError, match="--to sr,dicom-seg needs a DICOM series") as refused:
        predict(project / "scan.nii.gz", target, MODEL, to=["sr", "dicom-seg"])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("to", "told"), [(["nifty"], "did you mean 'nifti'"), ([], "names no kind"), (["sr"], "ask for --to dicom-seg,sr")]
)
def test_kinds_that_cannot_be_are_refused(to: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        checked(to)


def test_a_prediction_to_nifti_imports_nothing_that_only_others_need() -> None:
    heavy = "torch._dynamo", "torch.distributed.tensor", "highdicom", "contourpy", "scipy.ndimage", "pandas", "mlflow"
    script = f"import sys, pipelines.serving.prediction; print(*set({heavy}) & set(sys.modules), end='')"
    assert not subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
