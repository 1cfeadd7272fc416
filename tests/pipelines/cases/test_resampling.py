"""Resampling laws: equal to scipy's spline, constants stay constant, labels stay labels."""

import numpy as np
import pytest
from scipy.ndimage import zoom

from pipelines.cases.resampling import BLOCK_ROWS, PADDING, _matrix, resample, resample_label, resampled_shape
from tests.tolerances import agree, rounded

RNG = np.random.default_rng(0)
# Voxels and weights become float32; then each axis is a sum over the columns of a block, its band included.
RESAMPLED = rounded(2 + 3 * (BLOCK_ROWS + 2 * PADDING) / 2)


def test_resampling_a_constant_is_constant() -> None:
    for order in (1, 3):
        agree(resample(np.full((5, 9, 7), 3.0), (11, 4, 7), order), np.full((11, 4, 7), 3, np.float32), RESAMPLED)


def test_linear_resampling_reproduces_a_ramp_inside() -> None:
    ramp = np.broadcast_to(np.arange(20.0)[:, None, None], (20, 4, 4))
    found = resample(ramp, (40, 4, 4), order=1)[:, 0, 0]
    agree(found[1:-1], ((np.arange(40) + 0.5) / 2 - 0.5)[1:-1].astype(np.float32), RESAMPLED)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(75, 63, 50), (48, 30, 61), (24, 50, 40), (120, 50, 17)])
def test_resampling_equals_scipys_spline_with_the_border_going_on(order: int, shape: tuple[int, int, int]) -> None:
    field = RNG.random((60, 50, 40))
    factor = [new / old for new, old in zip(shape, field.shape, strict=True)]
    reference = zoom(field, factor, order=order, mode="nearest", grid_mode=True)
    agree(resample(field, shape, order), reference.astype(np.float32), RESAMPLED)


def test_a_band_of_the_spline_is_all_of_it() -> None:
    """As one dense product along each axis, in float64."""
    field = RNG.random((200, 3, 3))
    whole = np.tensordot(_matrix(200, 333, 3), field, axes=1)
    agree(resample(field, (333, 3, 3), 3), whole.astype(np.float32), RESAMPLED)


def test_another_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order 2 must be 1"):
        resample(np.ones((4, 4, 4)), (5, 5, 5), order=2)


def test_a_label_resampled_to_its_own_shape_is_itself_and_no_value_is_invented() -> None:
    label = RNG.integers(0, 4, (9, 9, 9)).astype(np.uint8) * 3
    np.testing.assert_array_equal(resample_label(label, (9, 9, 9)), label)
    assert set(np.unique(resample_label(label, (13, 6, 9)))) <= {0, 3, 6, 9}


def test_a_single_slice_can_be_resampled() -> None:
    assert resample(np.ones((1, 5, 5)), (3, 5, 5), order=3).shape == (3, 5, 5)
    assert resampled_shape((1, 100, 100), (10.0, 1.0, 1.0), (1.0, 2.0, 2.0)) == (10, 50, 50)
