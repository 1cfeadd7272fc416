"""The stage `pretrain`: which scans it takes, how it is skipped, what its report says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.data import casefile
from model.weights_file import EncoderCard
from pipelines import params
from pipelines.cases.preparation import CTScale, Preprocessing, SourceRecord
from pipelines.pages import reconstruction
from pipelines.pages.drawing import GAP_PX
from pipelines.pages.reconstruction import PaintedPatch
from pipelines.stages import pretrain, train
from pipelines.work.writing import write_json
from tests.conftest import REPOSITORY
from tests.model.engine.test_trainer import CASES

CARD = EncoderCard("nano", {}, {}, {"steps": 6, "mask_fraction": 0.5, "mask_stride": 8}, ("CINE",), {"acdc": 3}, {})


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    """The smoke profile, in a folder with case files: labelled ones and one without labels."""
    monkeypatch.chdir(tmp_path)
    unlabelled = replace(CASES[1].record, case_id="unlabelled", annotated=())
    for split, cases in (
        ("train", [CASES[0], replace(CASES[1], record=unlabelled, foreground=np.zeros((0, 4), np.int32)), CASES[4]]),
        ("validation", [CASES[2]]),
    ):
        folder = tmp_path / "data/cases" / split
        folder.mkdir(parents=True)
        for case in cases:
            record = replace(case.record, split=split)
            casefile.write(folder / f"{record.case_id}.safetensors", replace(case, record=record))
    spacing_mm = (1.0, 1.0, 1.0)
    sources = {name: SourceRecord((), (), spacing_mm, spacing_mm) for name in ("acdc", "brats")}
    write_json(tmp_path / "data/cases/preprocessing.json", Preprocessing(CTScale(-1, 1, 0, 1), sources).to_json())
    smoke = params.load(REPOSITORY / "params.yaml")
    return smoke.model_copy(update={"pretrain": smoke.pretrain.model_copy(update={"steps": 6})})


def test_labelled_and_unlabelled_training_scans_are_learnt_from_and_no_others(settings: params.Params) -> None:
    job = pretrain.prepare(settings)
    taken = {case.record.case_id for cases in job.stream.by_source.values() for case in cases}
    assert taken == {"acdc-0", "unlabelled", "brats-4"}
    assert [case.record.case_id for case in job.validation] == ["acdc-2"]
    assert job.card.scans == {"acdc": 2, "brats": 1}
    assert job.card.modalities == ("CINE", "FLAIR", "T1CE")
    assert job.stream.config.classes == ()  # what batches are made with: no label reaches the encoder


def test_a_large_step_draws_its_sources_in_blocks(settings: params.Params) -> None:
    large = {"global_batch": 256, "micro_batch": 1}
    many = settings.model_copy(
        update={name: getattr(settings, name).model_copy(update=large) for name in ("pretrain", "train")}
    )
    assert [stage.prepare(many).stream.config.source_block for stage in (pretrain, train)] == [64, 64]
    assert [stage.prepare(settings).stream.config.source_block for stage in (pretrain, train)] == [1, 1]


def test_a_held_out_case_in_the_wrong_folder_is_refused(settings: params.Params) -> None:
    held_out = replace(CASES[3], record=replace(CASES[3].record, split="test"))
    casefile.write(Path("data/cases/train/stray.safetensors"), held_out)
    with pytest.raises(ValueError, match="holds acdc-3 of split 'test'; rerun preprocess"):
        pretrain.prepare(settings)


def test_cells_larger_than_a_patch_are_refused_with_the_remedy(settings: params.Params) -> None:
    large = settings.model_copy(update={"pretrain": settings.pretrain.model_copy(update={"mask_stride": 32})})
    with pytest.raises(ValueError, match=r"mask_stride 32: a patch of acdc, .* fewer than two cells of .* enlarge pre"):
        pretrain.prepare(large)


def test_skipped_by_a_parameter_it_leaves_outputs_that_say_so(settings: params.Params) -> None:
    stale = Path("models/pretrain/encoder.safetensors")
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of an earlier run")
    pretrain.skip()
    assert not stale.exists()
    for folder in ("models/pretrain", "reports/pretrain"):
        assert Path(folder, "skipped.txt").read_text() == pretrain.SKIPPED
    skipped = settings.model_copy(update={"pretrain": settings.pretrain.model_copy(update={"steps": 0})})
    assert train.prepare(skipped).encoder is None
    assert train.prepare(settings).encoder == Path("models/pretrain")


def test_a_frozen_encoder_has_nothing_to_learn(settings: params.Params) -> None:
    frozen = settings.model_copy(update={"train": settings.train.model_copy(update={"freeze_encoder": True})})
    network = train.prepare(frozen).network
    learning = {name.partition(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {"decoder"}


def patch() -> PaintedPatch:
    image = torch.arange(2 * 8 * 8 * 8, dtype=torch.float32).view(2, 8, 8, 8)
    hidden = torch.zeros(8, 8, 8, dtype=torch.bool)
    hidden[:, :4] = True
    record = replace(CASES[4].record, modalities=("FLAIR", "T1CE"))
    return PaintedPatch(record, image, hidden, torch.where(hidden, 0.0, image))


def test_the_report_has_a_picture_a_modality_and_the_curve(tmp_path: Path) -> None:
    curve = [
        {"step": 0, "validation_explained.mean": -0.2, "probe_dice.mean": 0.3},
        {"step": 6, "validation_explained.mean": 0.45, "probe_dice.mean": 0.5},
    ]
    reconstruction.write(tmp_path / "one", [patch()], curve, CARD)
    page = (tmp_path / "one/index.html").read_text()
    for words in ("FLAIR.png", "T1CE.png", "0.450", "probe dice.mean", "3 acdc"):
        assert words in page
    assert "brats-4" not in page
    with Image.open(tmp_path / "one/FLAIR.png") as drawn:
        assert drawn.width == 3 * (reconstruction.EDGE_PX + GAP_PX)
    assert reconstruction.figures(curve) == {
        "step": 6, "validation_explained.mean": 0.45, "probe_dice.mean": 0.5, "loss_over_baseline": 0.55,
        "random_probe_dice.mean": 0.3,
    }  # fmt: skip
    reconstruction.write(tmp_path / "two", [patch()], curve, CARD)
    for name in ("FLAIR.png", "index.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_without_validation_patients_the_report_has_pictures_still(tmp_path: Path) -> None:
    reconstruction.write(tmp_path / "report", [patch()], [], CARD)
    assert "No validation patient" in (tmp_path / "report/index.html").read_text()
    assert (tmp_path / "report/metrics.json").read_text() == "{}\n"


def test_pictures_take_sources_in_turn_until_each_modality_is_shown() -> None:
    chosen = reconstruction.choose([*CASES[:4], *CASES[4:]])
    assert [case.record.case_id for case in chosen][:2] == ["acdc-0", "brats-4"]
    assert {name for case in chosen for name in case.record.modalities} == {"CINE", "FLAIR", "T1", "T1CE", "T2"}
    assert sum("CINE" in case.record.modalities for case in chosen) == reconstruction.OF_A_MODALITY
