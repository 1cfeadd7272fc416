"""Dice and its edge cases."""

import math

import numpy as np
import pytest
import torch

from model.metrics.overlap import dice, mean


def ball(radius: float, shift: int = 0) -> np.ndarray:
    grid = np.indices((32, 32, 32)) - 16
    grid[0] -= shift
    return np.asarray((grid**2).sum(0) <= radius**2)


def test_identical_masks_score_one_and_disjoint_ones_zero() -> None:
    assert dice(ball(8), ball(8)) == 1
    assert dice(ball(4, -10), ball(4, 10)) == 0


def test_a_missed_structure_scores_zero_and_an_absent_one_says_nothing() -> None:
    nothing = np.zeros((32, 32, 32), bool)
    assert dice(ball(8), nothing) == 0
    assert dice(nothing, ball(8)) == 0
    assert math.isnan(dice(nothing, nothing))


def test_missing_a_structure_never_raises_the_mean() -> None:
    assert mean([0.9, 0.0]) < mean([0.9]) == mean([0.9, float("nan")])
    assert math.isnan(mean([]))


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        dice(ball(8), ball(8)[1:])


def test_dice_agrees_with_monai() -> None:
    from monai.metrics import compute_dice

    one, other = ball(9), ball(7, 3)
    reference = compute_dice(torch.from_numpy(other)[None, None], torch.from_numpy(one)[None, None])
    assert dice(one, other) == pytest.approx(float(reference))
