"""Dice + cross-entropy: partial labels say nothing about what they leave out, and a sample's loss is its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.data.targets import UNDECIDED, Targets
from model.tasks.losses import deep_supervision, dice_cross_entropy, merge, soft_dice
from tests.tolerances import agree, reordered_sum, rounded

VOXELS = 4 * 5 * 6
# A loss adds up the voxels, after some exponentials and logarithms of each, which are good to a few roundings.
LOSS = reordered_sum(VOXELS + 20)
ALL = Targets(((0,), (1,), (2,), (3,)), ("a", "b", "c"))
ONLY_FIRST = Targets(((0, 2, 3), (1,)), ("a",))
NONE = Targets(((0, 1, 2, 3),), ())
EITHER = Targets(((0, 3), (1, 2)), ("a or b",))


def example(batch: int = 1, classes: int = 4, highest: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, 4, 5, 6, generator=generator)
    return logits, torch.randint(0, highest + 1, (batch, 4, 5, 6), generator=generator)


def confident(target: Tensor, classes: int = 4) -> Tensor:
    return 40.0 * torch.nn.functional.one_hot(target, classes).movedim(-1, 1).float()


def test_perfect_prediction_costs_nothing() -> None:
    _, target = example()
    assert dice_cross_entropy(confident(target), target, [ALL]).item() == pytest.approx(0, abs=1e-5)


def test_unannotated_structures_are_free_where_background_is_due() -> None:
    _, target = example(highest=1)
    predicted = torch.where(target == 0, torch.randint(0, 2, target.shape) * 3, target)  # 3 is not annotated
    assert dice_cross_entropy(confident(predicted), target, [ONLY_FIRST]).item() == pytest.approx(0, abs=1e-4)


def test_moving_mass_among_background_and_unannotated_classes_changes_nothing() -> None:
    logits, target = example(highest=1)
    moved = logits[:, [2, 1, 3, 0]]
    agree(dice_cross_entropy(moved, target, [ONLY_FIRST]), dice_cross_entropy(logits, target, [ONLY_FIRST]), LOSS)


def test_merged_probability_is_the_sum() -> None:
    logits, _ = example()
    merged = merge(logits, ONLY_FIRST.groups).softmax(1)
    probability = logits.softmax(1)
    agree(merged[:, 0], probability[:, [0, 2, 3]].sum(1), rounded(20))
    agree(merged[:, 1], probability[:, 1], rounded(20))


def test_neither_part_of_a_union_is_punished_for_the_other() -> None:
    """A kidney whose side nobody told: all on the left, all on the right, or any mixture costs the same."""
    logits, target = example(highest=1)
    whole = merge(logits, EITHER.groups)
    shares = torch.rand(target.shape)
    left = torch.stack([whole[:, 0], whole[:, 1] + shares.log(), whole[:, 1] + (1 - shares).log(), 0 * shares - 60], 1)
    right = left[:, [0, 2, 1, 3]].clone().requires_grad_()
    losses = [dice_cross_entropy(each, target, [EITHER]) for each in (left, right)]
    agree(losses[0], losses[1], LOSS)
    losses[1].sum().backward()
    assert right.grad is not None
    expected = right.grad[:, 1:3].sum(1, keepdim=True) * right.detach()[:, 1:3].softmax(1)
    agree(right.grad[:, 1:3], expected, reordered_sum(60))  # each is moved by its own share of the union's gradient


def test_undecided_voxels_change_neither_loss_nor_gradient() -> None:
    logits, target = example()
    hidden = torch.zeros_like(target, dtype=torch.bool)
    hidden[..., 3:] = True
    partial = replace(ALL, undecided=True)
    kept = dice_cross_entropy(logits[..., :3], target[..., :3], [ALL], dice_weight=0)
    masked = target.masked_fill(hidden, UNDECIDED)
    agree(dice_cross_entropy(logits, masked, [partial], dice_weight=0), kept, LOSS)
    other = torch.where(hidden.unsqueeze(1), torch.randn_like(logits) * 9, logits).requires_grad_()
    agree(dice_cross_entropy(other, masked, [partial]), dice_cross_entropy(logits, masked, [partial]), LOSS)
    dice_cross_entropy(other, masked, [partial]).sum().backward()
    assert other.grad is not None
    assert other.grad[..., 3:].abs().max() == 0


def test_a_region_adds_the_dice_of_its_union() -> None:
    _, target = example()
    swapped = confident(torch.tensor([0, 2, 1, 3])[target])  # 1 and 2 taken for each other: their union is right
    plain, regions = (dice_cross_entropy(swapped, target, [replace(ALL, regions=r)], 1, 0) for r in ((), ((1, 2),)))
    assert plain.item() == pytest.approx(2 / 3, abs=1e-2)
    assert regions.item() == pytest.approx(2 / 4, abs=1e-2)


def test_fully_annotated_is_the_plain_loss() -> None:
    logits, target = example()
    expected = torch.nn.functional.cross_entropy(logits, target)
    agree(dice_cross_entropy(logits, target, [ALL], dice_weight=0)[0], expected, LOSS)


def test_loss_of_a_sample_does_not_depend_on_its_batch() -> None:
    logits, target = example(batch=3, highest=1)
    targets = [ALL, ONLY_FIRST, ALL]
    together = dice_cross_entropy(logits, target, targets)
    for index in range(3):
        one = slice(index, index + 1)
        agree(together[one], dice_cross_entropy(logits[one], target[one], targets[one]), LOSS)


@pytest.mark.parametrize("targets", [ALL, NONE])
def test_patch_without_any_structure_has_bounded_gradients(targets: Targets) -> None:
    logits, _ = example()
    logits = (logits * 5).requires_grad_()
    loss = dice_cross_entropy(logits, torch.zeros(1, 4, 5, 6, dtype=torch.uint8), [targets])
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_summed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(1, 4, 40, 40, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    target = logits.float().argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = dice_cross_entropy(logits, target, [ALL])
    assert loss.dtype == torch.float32
    assert torch.equal(loss, dice_cross_entropy(logits.float(), target, [ALL]))


def test_extreme_logits_stay_finite() -> None:
    _, target = example(highest=1)
    logits = torch.zeros(1, 4, 4, 5, 6)
    logits[:, 2] = 6e4
    logits.requires_grad_()
    loss = dice_cross_entropy(logits, target, [ONLY_FIRST])
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_deep_supervision_of_one_output_is_the_loss() -> None:
    logits, target = example()
    assert torch.equal(deep_supervision([logits], target, [ALL], []), dice_cross_entropy(logits, target, [ALL]))


def test_deep_supervision_compares_each_output_with_the_middle_of_its_cells() -> None:
    """An odd size and strides that differ: what the network's own cells cover, and not a share of the size."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (1, 9, 8, 7), generator=generator)
    half = target[:, :, 1::2][:, :, :, [1, 3, 5, 6]]  # strides (1, 2, 2): the last cell has one voxel
    quarter = target[:, [1, 3, 5, 7, 8]][:, :, 2::4][:, :, :, [2, 6]]  # and then (2, 2, 2)
    outputs, steps = [confident(each) for each in (target, half, quarter)], [(1, 2, 2), (2, 2, 2)]
    assert deep_supervision(outputs, target, [ALL], steps).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("size", [32, 96, 256])
@pytest.mark.parametrize(("lesion", "cost"), [(20, 0.9), (65, 0.98)])
def test_a_missed_lesion_costs_its_dice_in_a_patch_of_any_size(size: int, lesion: int, cost: float) -> None:
    target = torch.zeros(1, size, size, size, dtype=torch.uint8)
    target.view(-1)[:lesion] = 1
    missed = torch.zeros(1, 2, size, size, size)
    missed[:, 1] = -40
    targets = [Targets(((0,), (1,)), ("lesion",))]
    assert dice_cross_entropy(missed, target, targets, cross_entropy_weight=0).item() > cost
    assert deep_supervision([missed], target, targets, [], cross_entropy_weight=0).item() > cost


def test_a_missed_lesion_costs_as_much_at_every_scale() -> None:
    """A lesion of 64 voxels is one cell at stride 4: smoothed as one voxel of the image, not as a cell."""
    target = torch.zeros(1, 32, 32, 32, dtype=torch.uint8)
    target[:, :4, :4, :4] = 1
    missed = [torch.zeros(1, 2, size, size, size) for size in (32, 16, 8)]
    for logits in missed:
        logits[:, 1] = -40
    targets, halved = [Targets(((0,), (1,)), ("lesion",))], [(2, 2, 2)] * 2
    assert deep_supervision(missed, target, targets, halved, cross_entropy_weight=0).item() > 0.98


def test_what_a_patch_does_not_show_is_left_to_the_cross_entropy() -> None:
    """Else the patches without a rare structure put it out: below a voxel its absence would be worth more than any."""
    logits = torch.zeros(1, 3, 4, 4, 4, requires_grad=True)
    target = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    target[0, :2] = 1
    targets = [Targets(((0,), (1,), (2,)), ("one", "rare"))]
    (dice_only,) = torch.autograd.grad(
        dice_cross_entropy(logits, target, targets, cross_entropy_weight=0.0).sum(), logits
    )
    probability = logits.detach().softmax(1)
    assert float(soft_dice(probability, target)) == pytest.approx(float(soft_dice(probability[:, :2], target)))
    # the absent class feels only that its share is not the shown one's: the same as background outside of the structure
    assert torch.equal(dice_only[0, 2, 2:], dice_only[0, 0, 2:])
    assert float(soft_dice(probability, torch.zeros_like(target))) == 1
