"""From a version back to every scan, and from a patient to everything that a scan of theirs went into."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flows.commands import lineage as commands
from pipelines.release import audit, dossier, lineage, registration, tracking, verify_bundle
from pipelines.scans import key, manifest
from pipelines.scans.naming import Names, hashed
from tests.pipelines.release import evaluated

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns of its own code


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(tracking.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    return tmp_path


def test_a_version_is_traced_to_its_scans_without_mlflow_and_without_data(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = evaluated.make(root)
    (root / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  train:\n    cmd: x\n    outs:\n    - path: m\n      md5: '5'\n"
    )
    folder = dossier.keep(content)
    dossier.note("m", 7, folder.name)
    monkeypatch.setattr(tracking, "configure", lambda: pytest.fail("no MLflow is needed"))
    for name in ("data", "reports", "models"):
        (root / name).rename(root / f"no-{name}")
    told = lineage.trace("models:/m/7")
    assert told["lock"] == {"train": {"m": "5"}}
    assert told["weights_sha256"] == content["weights_sha256"]
    assert [(scan["case_id"], scan["split"]) for scan in told["scans"][:2]] == [("kits-0", "test"), ("kits-1", "train")]
    assert all(len(file["sha256"]) == 64 for scan in told["scans"] for file in scan["files"])
    (folder / dossier.MANIFEST).write_bytes(b"other")
    with pytest.raises(ValueError, match=r"lineage/manifest.parquet is not what it was"):
        lineage.trace("models:/m/7")


def test_fifteen_thousand_scans_are_traced_within_two_seconds(root: Path) -> None:
    row = evaluated.row(root, 1)
    rows = [replace(row, case_id=f"kits-{number}", patient=f"{number:016x}") for number in range(15_000)]
    content = evaluated.make(root, more=rows)
    dossier.note("m", 1, dossier.keep(content).name)
    begun = time.process_time()  # the machine may be busy
    assert len(lineage.trace("models:/m/1")["scans"]) == 15_004
    assert time.process_time() - begun < 2


def test_a_patient_is_followed_into_versions_reports_files_and_predictions(root: Path) -> None:
    """Of p0: held out, reported, predicted twice with a registered version."""
    evaluated.make(root)
    version = registration.make_version()
    scans = {row.patient: row for row in manifest.read()}
    told = {"record_sha256": "r" * 64, "outputs": ["o" * 64]}
    audit.append("predict", inputs=[scans["p0"].images[0].sha256], **told)
    audit.append("predict", inputs=[scans["p2"].images[0].sha256], **told)
    found = lineage.trace_patient("p0")
    (touched,) = found["versions"]
    assert touched["versions"] == [f"m {version}"]
    assert touched["cases"] == {"kits-0": "test"}
    assert [Path(path).name for path in (touched["report"], *touched["predictions"])] == ["index.html", "kits-0.nii.gz"]
    assert {"reports/evaluate/cases.csv", "reports/evaluate/predictions/kits-0.nii.gz"} <= set(found["files"])
    assert [each["inputs"] for each in found["predictions"]] == [[scans["p0"].images[0].sha256]]
    (trained,) = lineage.trace_patient("p1")["versions"]
    assert (trained["cases"], trained["report"], trained["predictions"]) == ({"kits-1": "train"}, None, [])
    assert lineage.trace_patient("p9")["versions"] == []
    (dossier.place(touched["record_sha256"]) / dossier.MANIFEST).unlink()
    assert "manifest.parquet is missing" in lineage.trace_patient("p0")["not_looked_at"][f"m {version}"]


def test_the_commands_answer_in_json_and_write_a_bundle_that_proves_itself(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated.make(root)
    registration.make_version()
    capsys.readouterr()
    commands.trace_version("models:/m/1", None, json=True)
    assert json.loads(capsys.readouterr().out)["name"] == "m"
    commands.trace_version("models:/m/1", None)
    assert re.search(r"kits +2 +2", capsys.readouterr().out)
    commands.trace_version(None, "p2")
    assert "m 1, record" in capsys.readouterr().out
    commands.bundle_version("models:/m/1", None, None)
    told = "\n".join(verify_bundle.verify(root / "m-1.zip"))
    assert "this version is not released" in told
    assert {"card/card.xml", "card/sbom.cdx.json"} <= set(verify_bundle.opened(root / "m-1.zip"))


def test_a_patients_own_id_finds_the_pseudonym_and_is_not_told(root: Path) -> None:
    names = Names(key.of_project())
    dicom = hashed("dicom", key.of_project().name("patient", "\0MRN 4711"))
    own = {
        "sub-Jane": names.identifier("bids", "heart/sub-Jane"),
        "MRN 4711": dicom,
        "case_00003": hashed("kits", "case_00003"),
    }
    sources = {"sub-Jane": "bids-heart", "MRN 4711": "dicom", "case_00003": "kits"}
    row = evaluated.row(root, 1)
    rows = [
        replace(row, case_id=f"c{number}", patient=own[name], source=sources[name]) for number, name in enumerate(own)
    ]
    dossier.keep(evaluated.make(root, more=rows))
    for name, pseudonym in own.items():
        found = lineage.trace_patient(name)
        assert found["patients"] == [pseudonym]
        assert len(found["versions"]) == 1
        if name != "case_00003":
            assert name not in json.dumps(found)
