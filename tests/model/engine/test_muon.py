"""Muon balances directions: the singular values of a step differ far less than the gradient's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.engine.muon import POLYNOMIALS, Muon, matrices, orthogonal
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer


@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (256, 32), (16, 432)])
def test_singular_values_come_near_to_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    singular = torch.logspace(0, -2, min(shape))
    matrix = u @ torch.diag(singular) @ v
    found = torch.linalg.svdvals(orthogonal(matrix).float())
    assert found.max() < 2.5
    assert (found.amax(1) / found.amin(1)).max() < 12  # of 100 before


def exactly_orthogonal(matrix_SMN: Tensor) -> Tensor:
    """What `orthogonal` is, written as it is defined and in float64."""
    tall = matrix_SMN.shape[1] > matrix_SMN.shape[2]
    x = (matrix_SMN.mT if tall else matrix_SMN).double()
    x = x / (1.01 * x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in POLYNOMIALS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


@pytest.mark.parametrize("shape", [(64, 64), (32, 96)])
def test_directions_are_kept(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(1, *shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    cosine = torch.cosine_similarity(orthogonal(matrix).float().flatten(), (u @ v).flatten(), dim=0)
    assert cosine > 0.85


def test_a_step_is_as_large_as_one_of_adamw() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(48, 80))
    before = weight.detach().clone()
    weight.grad = 1e-6 * torch.randn(48, 80)
    Muon([(weight, 1)], {weight: 1.0}, lr=0.1, weight_decay=0.0).step()
    root_mean_square = (weight - before).square().mean().sqrt() / 0.1
    assert 0.15 < root_mean_square < 0.3  # AdamW: 0.2 to 0.4 in practice


def test_weight_decay_shrinks_what_has_no_gradient_to_follow() -> None:
    weight = torch.nn.Parameter(torch.ones(16, 16))
    weight.grad = torch.zeros(16, 16)
    Muon([(weight, 1)], {weight: 1.0}, lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((16, 16), 0.95))


def test_matrices_are_the_weights_of_linear_layers_dense_convolutions_and_upsamplings() -> None:
    with torch.device("meta"):
        network = MedSegFormer(PRESETS["tiny"], num_classes=3)
    taken = {id(parameter) for parameter, _ in matrices(network)}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in taken}
    assert "encoder.stages.1.downsample.weight" in names
    assert "decoder.upsamples.0.weight" in names
    assert "encoder.stages.3.blocks.0.attention.query.weight" in names
    assert not any("mix" in name or "norm" in name or "heads" in name or "bias" in name for name in names)
    assert "embedding.modality.weight" not in names
    assert "embedding.stem_full.conv.weight" not in names  # one input channel
