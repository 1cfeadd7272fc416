"""Muon balances directions: the singular values of a step differ far less than the gradient's."""

from __future__ import annotations

import pytest
import torch

from model.engine.muon import LARGEST, SPREAD, Muon, halley_weights, matrices, orthogonal, polynomials
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (256, 32), (16, 432)])
def test_singular_values_come_near_to_each_other(shape: tuple[int, int], size: float) -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    singular = torch.logspace(0, -2, min(shape))
    matrix = u @ torch.diag(singular) @ v
    found = torch.linalg.svdvals(orthogonal(size * matrix))
    x, (a, b, c) = singular / singular.pow(4).sum() ** 0.25, halley_weights(SPREAD)
    expected = LARGEST * x * (a + b * x**2) / (1 + c * x**2)
    torch.testing.assert_close(found, expected.sort(descending=True).values.expand(3, -1), rtol=1e-3, atol=0)
    assert found.max() <= 1.001 * LARGEST
    assert found.min() >= LARGEST / 4  # of 1 / 100 before; a half, were the largest singular value known exactly


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e12])
@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (16, 432)])
def test_a_gpus_polynomials_bring_them_near_to_each_other_as_well(shape: tuple[int, int], size: float) -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    matrix = u @ torch.diag(torch.logspace(0, -2, min(shape))) @ v
    found = polynomials(size * matrix).float()
    singular = torch.linalg.svdvals(found)
    assert singular.max() < 2.5
    assert (singular.amax(1) / singular.amin(1)).max() < 12  # of 100 before
    cosine = torch.cosine_similarity(found.flatten(1), orthogonal(matrix).flatten(1))
    assert cosine.min() > 0.85  # the same directions


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1e-10, 1.0, 1e15])
def test_a_gradient_of_any_size_in_one_direction_alone_has_a_step(size: float) -> None:
    """Where a softmax has one key, what it is of is nothing but rounding."""
    torch.manual_seed(0)
    matrix = size * torch.nn.functional.normalize(torch.randn(2, 48, 1), dim=1) @ torch.ones(1, 96) / 96**0.5
    largest = torch.linalg.svdvals(orthogonal(matrix)).amax(1)
    assert largest.isfinite().all()
    assert (largest <= 1.001 * LARGEST).all()
    assert size < 1e-15 or (largest >= 0.999 * LARGEST).all()


@pytest.mark.parametrize("shape", [(64, 64), (32, 96)])
def test_directions_are_kept(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(1, *shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    cosine = torch.cosine_similarity(orthogonal(matrix).flatten(), (u @ v).flatten(), dim=0)
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
