"""`medseg data import` proposes parameters with which the folder's scans are read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows import importing
from flows.commands.medseg import app
from pipelines import params
from pipelines.intake import examination, finding, listing
from pipelines.params import profiles
from pipelines.sources import readers
from tests.conftest import REPOSITORY, save

LABEL = np.zeros((6, 7, 8), np.uint8)
LABEL[1:4, 1:4, 1:4], LABEL[4:5, 4:6, 4:6] = 1, 2


def image(path: Path, low: int) -> None:
    save(path, np.random.default_rng(abs(low)).integers(low, 500, LABEL.shape).astype(np.int16))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, and a folder of scans beside it."""
    root = tmp_path / "project"
    shutil.copytree(REPOSITORY / "profiles", root / "profiles")
    (root / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(root)
    monkeypatch.setenv("MEDSEG_ROOT", str(root))
    (root / "params.yaml").write_text(profiles.compose("smoke"))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    raw = tmp_path / "scans"
    for name, low in (("spleen", -1000), ("knee", 1)):
        image(raw / name / "images/a.nii.gz", low)
        save(raw / name / "labels/a.nii.gz", LABEL if name == "knee" else np.minimum(LABEL, 1))
    nnunet = raw / "Dataset007_Own"
    image(nnunet / "imagesTr/a_0000.nii.gz", -999)
    save(nnunet / "labelsTr/a.nii.gz", LABEL)
    index = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "livver": 1, "plate and screws": 2}}
    (nnunet / "dataset.json").write_text(json.dumps({**index, "file_ending": ".nii.gz"}))
    return raw


def refused(folder: Path, settings: params.Params) -> list[str]:
    listed = listing.take(folder, folder.parent / "digests.sqlite")
    told = settings.data.labels, settings.data.modality
    rows = examination.examine(finding.find(folder, listed, settings.data.sources, None, *told))
    return [row.source for row in rows if row.quarantined]


def test_names_are_proposed_values_are_asked_for_and_a_modality_is_guessed(project: Path, folder: Path) -> None:
    found = importing.outlook(folder, None, [])
    by_source = {row["source"]: row for row in found["sources"]}
    assert set(by_source) == {"nnunet-own", "pairs-knee", "pairs-spleen"}
    assert by_source["pairs-spleen"] == {
        "source": "pairs-spleen", "scans": 1, "labelled": 1, "modalities": ["CT"], "structures": ["spleen"], "open": [],
    }  # fmt: skip
    assert found["guessed"]["nnunet-own"] == {"livver": "liver", "plate and screws": "background"}
    assert found["guessed"]["pairs-knee"] == {"its images": "MR"}
    (told,) = by_source["pairs-knee"]["open"]
    assert told == "what its labels mean: --set 'data.labels.pairs-knee={1: STRUCTURE, 2: STRUCTURE}'"
    assert found["profile"] == "own"


def test_what_is_written_reads_every_scan_and_a_second_import_keeps_it(project: Path, folder: Path) -> None:
    said = ["data.labels.pairs-knee={1: prostate, 2: ignore}"]
    found = importing.outlook(folder, None, said)
    assert [row["open"] for row in found["sources"]] == [[]] * 3
    importing.write(folder, found["profile"], found["changes"])
    settings = params.load()
    assert (project / "data/raw").resolve() == folder
    assert set(settings.data.sources) == {"nnunet", "pairs"}
    assert refused(folder, settings) == []
    again = importing.outlook(folder, None, [])
    assert [row["open"] for row in again["sources"]] == [[]] * 3
    importing.write(folder, again["profile"], again["changes"])
    assert params.load().data == settings.data


def test_a_folder_of_nothing_is_refused(project: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no scan in a known layout; `medseg data check .*empty` says more"):
        importing.outlook(tmp_path / "empty", None, [])


def test_nothing_is_written_where_nobody_agrees(project: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (project / "params.yaml").read_text()
    told = CliRunner().invoke(app, ["data", "import", str(folder)])
    assert told.exit_code == 1
    assert "pairs-knee: its scans are quarantined until you say what its labels mean" in told.stdout
    assert "--yes writes without asking" in told.stderr
    monkeypatch.setattr(importing, "require_terminal", lambda: None)
    told = CliRunner().invoke(app, ["data", "import", str(folder)], input="n\n")
    assert (told.exit_code, told.stderr.strip()) == (1, "Aborted!")
    assert (project / "params.yaml").read_text() == before
    assert not (project / "data").exists()
    told = CliRunner().invoke(app, ["data", "import", str(folder)], input="y\n")
    assert told.exit_code == 0
    assert told.stdout.strip().endswith("params.yaml is written; next: medseg run")


def test_as_json_it_is_one_object(project: Path, folder: Path) -> None:
    assert CliRunner().invoke(app, ["data", "import", str(folder), "--json"]).exit_code == 0
    assert not (project / "data").exists()
    (folder / "IM1.DCM").write_bytes(b"")
    told = CliRunner().invoke(app, ["data", "import", str(folder), "--json", "--yes"])
    assert json.loads(told.stdout)["dicom"] == 1
    assert json.loads(told.stdout)["profile"] == "own"
    assert params.load().data.modality == {"pairs-knee": ("MR",), "pairs-spleen": ("CT",)}


def test_a_change_that_is_none_is_refused_before_anything_is_written(project: Path, folder: Path) -> None:
    told = CliRunner().invoke(
        app, ["data", "import", str(folder), "--yes", "--set", "data.labels.pairs-knee={1: knie}"]
    )
    assert told.exit_code == 1
    assert "data.labels.pairs-knee: '1' means 'knie', which is no structure" in told.stderr
    assert not (project / "data").exists()


def test_every_layout_that_can_be_proposed_is_one_that_parameters_know(project: Path) -> None:
    assert set(readers()) == set(profiles.settings("own").data.sources)
