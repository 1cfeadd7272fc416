"""The plan's rules, on cohorts whose answer is known."""

import numpy as np
import pytest

from model.network.config import ALIGNMENT
from pipelines.cases.decisions import SOFT_TISSUE, ct_scale, decide, normalisation, patch, spacing


def test_the_target_is_the_median_spacing() -> None:
    found, reason = spacing([[1, 1, 1], [2, 1, 1], [2, 1, 1]], [[50, 60, 60]] * 3, 3.0)
    assert found == (2.0, 1.0, 1.0)
    assert "median of 3" in reason


def test_the_coarse_axis_of_thick_slices_takes_a_low_percentile() -> None:
    spacings = [[5.0, 0.8, 0.8]] * 8 + [[3.0, 0.8, 0.8]] * 2
    found, reason = spacing(spacings, [[20, 300, 300]] * 10, 3.0)
    assert found == (3.0, 0.8, 0.8)
    assert "axis D" in reason
    assert spacing(spacings, [[200, 300, 300]] * 10, 3.0)[0] == (5.0, 0.8, 0.8)  # coarse in mm, not in voxels


def test_one_more_scan_among_many_leaves_the_target_as_it_was() -> None:
    rng = np.random.default_rng(0)
    spacings = np.column_stack([rng.uniform(0.5, 1.5, (401, 3))]).tolist()
    shapes = [[100, 100, 100]] * 401
    assert spacing(spacings[:-1], shapes[:-1], 3.0)[0] == spacing(spacings, shapes, 3.0)[0]


@pytest.mark.parametrize(
    ("median_shape", "spacing_mm", "budget"),
    [
        ((36, 50, 35), (1, 1, 1), 65536),
        ((10, 256, 216), (10, 1.5, 1.5), 262144),
        ((132, 161, 136), (1, 1, 1), 262144),
        ((500, 512, 512), (0.8, 0.8, 0.8), 128**3),
        ((3, 900, 900), (8, 0.4, 0.4), 4096),
        ((2, 2, 2), (1, 1, 1), 512),
    ],
)
def test_a_patch_keeps_budget_stride_and_scan(
    median_shape: tuple[float, ...], spacing_mm: tuple[float, ...], budget: int
) -> None:
    found, _ = patch(median_shape, spacing_mm, budget)
    assert np.prod(found) <= budget
    for size, whole in zip(found, median_shape, strict=True):
        assert size % ALIGNMENT == 0
        assert 8 <= size <= max(8, whole + ALIGNMENT)


def test_a_patch_is_a_cube_in_mm_where_the_scan_allows() -> None:
    found, _ = patch((500, 500, 500), (2.0, 1.0, 1.0), 2**18)
    assert np.ptp(np.array(found) * np.array([2.0, 1.0, 1.0])) <= 2 * ALIGNMENT
    assert patch((12, 256, 256), (10, 1.5, 1.5), 262144)[0] == (12, 144, 144)


def test_ct_takes_one_window_and_all_else_its_own_scale() -> None:
    assert normalisation(["CT"])[0] == "window"
    found, reason = normalisation(["FLAIR", "T1"])
    assert found == "z_score"
    assert "FLAIR, T1" in reason


def test_the_ct_window_is_the_foregrounds_percentiles() -> None:
    rng = np.random.default_rng(0)
    scale, _ = ct_scale([rng.normal(60, 40, 20_000).astype(np.float32) for _ in range(20)], (0.5, 99.5))
    assert (scale.low, scale.high) == pytest.approx((60 - 2.576 * 40, 60 + 2.576 * 40), abs=2)
    assert scale.mean == pytest.approx(60, abs=1)
    assert ct_scale([], (0.5, 99.5))[0] == SOFT_TISSUE


def test_one_more_ct_among_many_leaves_the_window_as_it_was() -> None:
    rng = np.random.default_rng(1)
    samples = [rng.normal(60, 40, 1000).astype(np.float32) for _ in range(300)]
    assert ct_scale(samples, (0.5, 99.5))[0] == ct_scale([*samples, samples[0] + 5], (0.5, 99.5))[0]


def test_what_is_stated_overrides_the_plan_and_says_so() -> None:
    found = decide((1.0, 1.0, 1.0), "the median", (2.0, 2.0, 2.0), "preprocess.spacing_mm")
    assert (found.value, found.planned, found.stated) == ((2.0, 2.0, 2.0), (1.0, 1.0, 1.0), True)
    assert "preprocess.spacing_mm in params.yaml" in found.reason
    assert "1, 1, 1, the median" in found.reason
    assert not decide((1.0, 1.0, 1.0), "the median", None, "").stated
