"""A modality of one's own goes from the channel's name to trained weights; what is in HU is treated as CT is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.data import casefile
from model.network.config import MODALITIES
from model.network.medsegformer import MedSegFormer
from pipelines import params
from pipelines.cases import case_folder, decisions
from pipelines.cases.preparation import WINDOW, Z_SCORE, CTScale, Preprocessing, SourceRecord, prepare
from pipelines.intake import quality
from pipelines.scans.modalities import FILE
from pipelines.scans.volume_geometry import Volume
from pipelines.stages import plan, pretrain, train
from pipelines.work.writing import write_json
from tests.conftest import REPOSITORY
from tests.model.engine.test_trainer import CASES
from tests.pipelines.sources.test_layouts import dataset, image, taken


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a modality of its own."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / FILE).write_text("heat: {synonyms: [thermo]}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_channel_is_known_by_its_declared_name(project: Path) -> None:
    folder = dataset(project / "raw", channel_names={"0": "Thermo", "1": "noncontrast CT"})
    for seed, case in enumerate("abc"):
        image(folder / f"images{'Ts' if case == 'c' else 'Tr'}/{case}_0001.nii.gz", 10 + seed)
    assert [row.modalities for row in taken(project / "raw")] == [["NCCT", "heat"]] * 3
    (project / FILE).unlink()
    refused = taken(project / "raw")[0].quarantined
    assert "channel '0' is called 'Thermo'; " in refused
    assert "`Thermo: {kind: MR}`" in refused


def test_the_plan_says_what_every_scan_had_and_in_which_unit(project: Path) -> None:
    folder = dataset(project / "raw", channel_names={"0": "Thermo", "1": "noncontrast CT"})
    for seed, case in enumerate("abc"):
        image(folder / f"images{'Ts' if case == 'c' else 'Tr'}/{case}_0001.nii.gz", 10 + seed)
    rows = [replace(row, split="train") for row in taken(project / "raw")]
    made = Preprocessing.from_json(plan.make(rows, {}, params.load(REPOSITORY / "params.yaml")))
    assert made.units == {"heat": "none", "NCCT": "HU"}
    assert made.sources["nnunet-abdomen"].always == ("NCCT", "heat")
    before = case_folder.keys(rows, made, 1)
    (project / FILE).write_text("heat: {unit: HU, synonyms: [thermo]}\n")
    assert case_folder.keys(rows, made, 1) != before


@pytest.mark.parametrize("stage", [train, pretrain])
def test_a_stage_gives_it_a_row(project: Path, stage: object) -> None:
    for split, case in (("train", CASES[0]), ("validation", CASES[1])):
        record = replace(case.record, split=split, modalities=("heat",))
        (project / "data/cases" / split).mkdir(parents=True)
        casefile.write(project / "data/cases" / split / "a.safetensors", replace(case, record=record))
    sources = {"acdc": SourceRecord(("heat",), (), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))}
    write_json(project / "data/cases/preprocessing.json", Preprocessing(CTScale(-1, 1, 0, 1), sources).to_json())
    job = stage.prepare(params.load(REPOSITORY / "params.yaml"))  # type: ignore[attr-defined]
    assert job.card.network["modalities"] == (*MODALITIES, "heat")
    assert set(job.stream[0].modality.flatten().tolist()) == {16}
    if isinstance(job.network, MedSegFormer):
        assert job.network.config.modalities == (*MODALITIES, "heat")


def body(seed: int = 0) -> np.ndarray:
    array = np.full((24, 24, 24), -1000, np.float32)
    array[4:20, 4:20, 2:22] = np.random.default_rng(seed).normal(100, 200, (16, 16, 20)).clip(-300, 1600)
    return array


def test_rules_of_hounsfield_units_are_for_all_that_is_in_them() -> None:
    def seen(array: np.ndarray) -> Volume:
        return Volume(array, (2.0, 2.0, 2.0), np.diag([2.0, 2.0, 2.0, 1]), array.shape)

    bounds, scale = params.load(REPOSITORY / "params.yaml").ingest.quality, CTScale(-200.0, 300.0, 50.0, 100.0)
    volume = seen(body())
    as_ct, _ = prepare({"CT": volume}, volume.spacing_mm, scale)
    as_cbct, _ = prepare({"CBCT": volume}, volume.spacing_mm, scale)
    assert np.array_equal(as_ct, as_cbct)
    assert as_ct.shape == (1, 16, 16, 20)
    assert decisions.normalisation(["CBCT"])[0] == WINDOW
    assert decisions.normalisation(["PET", "T1"])[0] == Z_SCORE
    assert not [f for f in quality.examine({"CBCT": volume}, None, bounds) if f.refused]
    told = [f.text for f in quality.examine({"CBCT": seen(body() + 1024)}, None, bounds) if f.refused]
    assert len(told) == 1
    assert told[0].startswith("intensity: CBCT from")
    assert "has no negative value" in told[0]
    assert "called PET, but its values are Hounsfield units" in str(quality.examine({"PET": volume}, None, bounds))
