"""Dice + cross-entropy: partial labels say nothing about what they leave out, and a sample's loss is its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.tasks.losses import deep_supervision, dice_cross_entropy, merge_unannotated
from tests.tolerances import agree, reordered_sum, rounded

VOXELS = 4 * 5 * 6
# A loss adds up the voxels, after some exponentials and logarithms of each, which are good to a few roundings.
LOSS = reordered_sum(VOXELS + 20)
ALL = torch.ones(1, 4, dtype=torch.bool)
ONLY_FIRST = torch.tensor([[True, True, False, False]])


def example(batch: int = 1, classes: int = 4, highest: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, 4, 5, 6, generator=generator)
    return logits, torch.randint(0, highest + 1, (batch, 4, 5, 6), generator=generator)


def confident(target: Tensor, classes: int = 4) -> Tensor:
    return 40.0 * torch.nn.functional.one_hot(target, classes).movedim(-1, 1).float()


def test_perfect_prediction_costs_nothing() -> None:
    _, target = example()
    assert dice_cross_entropy(confident(target), target, ALL).item() == pytest.approx(0, abs=1e-5)


def test_unannotated_structures_are_free_where_background_is_due() -> None:
    _, target = example(highest=1)
    predicted = torch.where(target == 0, torch.randint(0, 2, target.shape) * 3, target)  # 3 is not annotated
    assert dice_cross_entropy(confident(predicted), target, ONLY_FIRST).item() == pytest.approx(0, abs=1e-4)


def test_moving_mass_among_background_and_unannotated_classes_changes_nothing() -> None:
    logits, target = example(highest=1)
    moved = logits[:, [2, 1, 3, 0]]
    agree(dice_cross_entropy(moved, target, ONLY_FIRST), dice_cross_entropy(logits, target, ONLY_FIRST), LOSS)


def test_merged_probability_is_the_sum() -> None:
    logits, _ = example()
    merged = merge_unannotated(logits, ONLY_FIRST).softmax(1)
    probability = logits.softmax(1)
    agree(merged[:, 0], probability[:, [0, 2, 3]].sum(1), rounded(20))
    agree(merged[:, 1], probability[:, 1], rounded(20))
    assert merged[:, 2:].abs().max() == 0


def test_background_is_annotated_whatever_the_flag_says() -> None:
    logits, target = example(highest=1)
    flagged = ONLY_FIRST.clone()
    flagged[:, 0] = False
    assert torch.equal(dice_cross_entropy(logits, target, flagged), dice_cross_entropy(logits, target, ONLY_FIRST))


def test_fully_annotated_is_the_plain_loss() -> None:
    logits, target = example()
    expected = torch.nn.functional.cross_entropy(logits, target)
    agree(dice_cross_entropy(logits, target, ALL, dice_weight=0)[0], expected, LOSS)


def test_loss_of_a_sample_does_not_depend_on_its_batch() -> None:
    logits, target = example(batch=3, highest=1)
    annotated = torch.cat([ALL, ONLY_FIRST, ALL])
    together = dice_cross_entropy(logits, target, annotated)
    for index in range(3):
        one = slice(index, index + 1)
        agree(together[one], dice_cross_entropy(logits[one], target[one], annotated[one]), LOSS)


@pytest.mark.parametrize("annotated", [ALL, torch.tensor([[True, False, False, False]])])
def test_patch_without_any_structure_has_bounded_gradients(annotated: Tensor) -> None:
    logits, _ = example()
    logits = (logits * 5).requires_grad_()
    loss = dice_cross_entropy(logits, torch.zeros(1, 4, 5, 6, dtype=torch.uint8), annotated)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_summed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(1, 4, 40, 40, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    target = logits.float().argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = dice_cross_entropy(logits, target, ALL)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, dice_cross_entropy(logits.float(), target, ALL))


def test_extreme_logits_stay_finite() -> None:
    _, target = example(highest=1)
    logits = torch.zeros(1, 4, 4, 5, 6)
    logits[:, 2] = 6e4
    logits.requires_grad_()
    loss = dice_cross_entropy(logits, target, ONLY_FIRST)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_deep_supervision_of_one_output_is_the_loss() -> None:
    logits, target = example()
    assert torch.equal(deep_supervision([logits], target, ALL), dice_cross_entropy(logits, target, ALL))


def test_deep_supervision_compares_each_output_with_the_target_on_its_grid() -> None:
    target = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    target[:, 2:6, 2:6, 2:6] = 1
    outputs = [confident(target), confident(target[:, ::2, ::2, ::2])]
    assert deep_supervision(outputs, target, ALL).item() == pytest.approx(0, abs=1e-4)
