"""Rows of the modality embedding: the fixed ones stay where they are, and what else is trained on has more."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import weights
from model.data.dataset import SampleStream
from model.network.config import MODALITIES, PRESETS, NetworkConfig, modalities_with, rows_of
from model.network.medsegformer import MedSegFormer
from model.network.sizes import parameter_counts, pretraining_parameters
from model.tasks.masked import MaskedAutoencoder
from model.weights_file import ENCODER, Card, EncoderCard
from tests.model.engine.test_trainer import STREAM, make_case

NANO = PRESETS["nano"]
WIDER = replace(NANO, modalities=modalities_with(("heat", "T1", "CBCT")))


def built(config: NetworkConfig) -> MedSegFormer:
    torch.manual_seed(0)
    return MedSegFormer(config, num_classes=3).eval()


def save(folder: Path, network: MedSegFormer, fields: dict[str, object]) -> Path:
    folder.mkdir()
    card = Card("nano", fields, ("a", "b"), {"a": 1, "b": 2}, {}, {}, {})
    weights.export(folder, network.state_dict(), card)
    return folder


def test_positions_that_trained_models_hold_stay_as_they_are() -> None:
    assert MODALITIES == (
        "absent", "CT", "MR", "T1", "T1CE", "T2", "FLAIR", "CINE", "PD", "DWI", "ADC", "SWI", "LGE", "DCE", "PET", "US",
    )  # fmt: skip
    assert modalities_with(("US", "T1")) == NANO.modalities == MODALITIES
    assert WIDER.modalities == (*MODALITIES, "CBCT", "heat")
    assert rows_of(("T1", "heat"), WIDER.modalities) == [3, 17]


def test_a_name_without_a_row_is_refused() -> None:
    for name in ("heat", "absent"):
        with pytest.raises(ValueError, match=f"no row for modality {name}; it has CT, MR"):
            rows_of(("CT", name))


@pytest.mark.parametrize("modalities", [("absent", "MR"), (*MODALITIES[1:], "x"), (*MODALITIES, "x", "x")])
def test_a_network_without_the_fixed_rows_is_refused(modalities: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="must begin with"):
        replace(NANO, modalities=modalities)


def test_weights_older_than_the_list_are_read_as_they_are(tmp_path: Path) -> None:
    network = built(NANO)
    older = {name: value for name, value in asdict(NANO).items() if name != "modalities"}
    loaded, _ = weights.load(save(tmp_path / "older", network, older))
    assert loaded.config.modalities == MODALITIES
    assert all(torch.equal(p, q) for p, q in zip(loaded.parameters(), network.parameters(), strict=True))


def test_weights_carry_the_names_of_their_rows(tmp_path: Path) -> None:
    loaded, _ = weights.load(save(tmp_path / "wider", built(WIDER), asdict(WIDER)))
    assert loaded.config.modalities == WIDER.modalities
    assert len(loaded.embedding.modality.weight) == len(WIDER.modalities) - 1


def test_a_further_modality_is_collated_and_looked_at() -> None:
    case = make_case(0, "acdc", ("CBCT", "heat"), {"right_ventricle": 3, "myocardium": 4})
    batch = SampleStream([case], replace(STREAM, modalities=WIDER.modalities))[0]
    assert batch.modality.tolist() == [[16, 17]] * 2
    network = built(WIDER)
    logits = network(batch.image, batch.modality, batch.spacing_mm)
    assert logits.shape[2:] == batch.target.shape[1:]
    other = network(batch.image, batch.modality.flip(1), batch.spacing_mm)
    assert not torch.equal(logits, other)
    with pytest.raises(ValueError, match="no row for modality CBCT, heat"):
        SampleStream([case], STREAM)[0]


def test_closed_forms_count_the_further_rows() -> None:
    assert sum(parameter_counts(WIDER, 3).values()) == sum(p.numel() for p in built(WIDER).parameters())
    assert pretraining_parameters(WIDER) == sum(p.numel() for p in MaskedAutoencoder(WIDER).parameters())


@pytest.mark.parametrize(
    ("theirs", "own"), [(("heat", "cold"), ("warm", "heat")), ((), ("heat",)), (("heat",), ()), (("heat",), ("heat",))]
)
def test_pretrained_rows_go_by_name(tmp_path: Path, theirs: tuple[str, ...], own: tuple[str, ...]) -> None:
    config = replace(NANO, modalities=modalities_with(theirs))
    pretrained = MaskedAutoencoder(config)
    tensors = {n: p.data for n, p in pretrained.named_parameters() if n.startswith(weights.PRETRAINED)}
    card = EncoderCard("nano", asdict(config), {}, {}, theirs, {}, {})
    weights.export(tmp_path, tensors, card, ENCODER)
    network = MedSegFormer(replace(NANO, modalities=modalities_with(own)), 3)
    before = network.embedding.modality.weight.detach().clone()
    weights.load_encoder(network, tmp_path)
    after = network.embedding.modality.weight
    for row, name in enumerate(network.config.modalities[1:]):
        known = name in config.modalities
        source = pretrained.embedding.modality.weight if known else before
        assert torch.equal(after[row], source[rows_of((name,), config.modalities)[0] - 1] if known else source[row])
    assert torch.equal(network.embedding.condition.weight, pretrained.embedding.condition.weight)
    assert np.isfinite(after.detach().numpy()).all()
