"""What a scan's modalities are to a model: a kind of what it knows, missing, left out, or refused."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.cases.preparation import CTScale, Preprocessing, SourceRecord
from pipelines.scans.modalities import FILE
from pipelines.scans.volume import VolumeError
from pipelines.scans.volume_geometry import Volume
from pipelines.serving.as_trained import Met, meet

MM = (1.0, 1.0, 1.0)
VOLUME = Volume(np.zeros((2, 2, 2), np.float32), MM, np.eye(4), (2, 2, 2))


def model(*modalities: str, always: tuple[str, ...] = (), units: dict[str, str] | None = None) -> Preprocessing:
    source = SourceRecord(modalities, ("liver",), MM, MM, always=always)
    return Preprocessing(CTScale(-1, 1, 0, 1), {"s": source}, units or {})


def met(plan: Preprocessing, *names: str, modality: str | None = None) -> Met[Volume]:
    return meet(plan, dict.fromkeys(names, VOLUME), modality)


@pytest.mark.parametrize(
    ("trained", "shown", "note"),
    [
        ("MR", "T1", "T1 is taken as MR, which the model was trained on"),
        ("MR", "adc", "ADC is taken as MR, which the model was trained on"),
        ("CT", "CBCT", "CBCT is taken as CT, which the model was trained on"),
        ("T1", "t1w", ""),
    ],
)
def test_a_kind_of_what_the_model_knows_is_taken_and_told(trained: str, shown: str, note: str) -> None:
    found = met(model(trained), "", modality=shown)
    assert list(found.scan) == [trained]
    assert found.notes == ([note] if note else [])


def test_what_may_be_any_kind_is_refused_with_the_way_out() -> None:
    with pytest.raises(VolumeError, match=r"modality MR was not trained; .* knows T1. MR may be T1: .*--modality"):
        met(model("T1"), "MR")
    with pytest.raises(VolumeError, match=r"modality T1CE was not trained; the model knows T1$"):
        met(model("T1"), "T1CE")


def test_an_unknown_name_is_refused_with_what_the_model_knows() -> None:
    with pytest.raises(VolumeError, match=r"modality 'XRAY' is unknown; .*The model knows T1"):
        met(model("T1"), "", modality="XRAY")


def test_what_is_missing_is_told_if_training_had_scans_without_it() -> None:
    assert met(model("FLAIR", "T1"), "FLAIR").notes == ["the model was trained on FLAIR and T1; T1 is missing"]
    assert met(model("FLAIR", "T1", always=("FLAIR", "T1")), "FLAIR", "T1").notes == []
    with pytest.raises(VolumeError, match=r"T1 is missing, and no training scan was without T1"):
        met(model("FLAIR", "T1", always=("FLAIR", "T1")), "FLAIR")


def test_a_source_whose_scans_had_no_more_is_met_before_one_that_lacks_something() -> None:
    sources = {**model("T1", "T2", always=("T1", "T2")).sources, "t": SourceRecord(("T1", "PD", "T2"), (), MM, MM)}
    assert met(Preprocessing(CTScale(-1, 1, 0, 1), sources), "T1").source == "t"


def test_channels_that_were_not_trained_are_left_out_and_told() -> None:
    found = met(model("FLAIR"), "FLAIR", "PET")
    assert (list(found.scan), found.notes) == (["FLAIR"], ["PET was not trained, and is left out"])


def test_two_kinds_of_what_the_model_takes_once_are_refused() -> None:
    with pytest.raises(VolumeError, match="T1 and T2 are both MR to the model, which takes one; give it a file alone"):
        met(model("MR"), "T1", "T2")
    with pytest.raises(VolumeError, match="two files of one scan are T1; keep one"):
        met(model("T1"), "T1", "t1w")


def test_a_model_keeps_its_own_where_nobody_declares_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(met(model("heat", units={"heat": "none"}), "").scan) == ["heat"]
    with pytest.raises(VolumeError, match=r"trained on heat of unit HU, here it has none; .*`heat: \{unit: HU\}`"):
        met(model("heat", units={"heat": "HU"}), "")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / FILE).write_text("heat: {kind: CT}\n")
    assert list(met(model("heat", units={"heat": "HU"}), "").scan) == ["heat"]


def test_a_kind_of_another_unit_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / FILE).write_text("dose: {kind: CT, unit: none}\n")
    with pytest.raises(VolumeError, match="modality dose was not trained; the model knows CT"):
        met(model("CT"), "dose")
