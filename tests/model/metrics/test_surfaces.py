"""Surface Dice, HD95 and mean distance on shapes whose figures are known, and against surface-distance."""

import math

import numpy as np
import pytest

from model.metrics import surfaces
from tests.model.metrics.shapes import GRID, NOTHING, SPACINGS_MM, ball, blobs, box

SIZE = (8, 10, 6)


def area_of_box(size: tuple[int, int, int], spacing_mm: tuple[float, ...]) -> tuple[float, float, float]:
    """Of a box of voxels, its edges and corners cut off at half a voxel: all, one end, one end's flat part (axis 0)."""
    (d, h, w), (sd, sh, sw) = (length - 1 for length in size), spacing_mm
    flat = h * w * sh * sw
    corner = math.sqrt((sd * sh) ** 2 + (sd * sw) ** 2 + (sh * sw) ** 2) / 8
    rim = 2 * h * sh * math.hypot(sd, sw) / 2 + 2 * w * sw * math.hypot(sd, sh) / 2 + 4 * corner
    sides = 2 * d * h * sd * sh + 2 * d * w * sd * sw + 4 * d * sd * math.hypot(sh, sw) / 2
    return 2 * flat + 2 * rim + sides, flat + rim, flat


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_the_area_of_a_box_is_known(spacing_mm: tuple[float, ...]) -> None:
    mask = box((5, 6, 7), SIZE)
    found = surfaces.between(mask, mask, spacing_mm)
    assert found.reference.areas_mm2.sum() == pytest.approx(area_of_box(SIZE, spacing_mm)[0])


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_a_mask_agrees_with_itself(spacing_mm: tuple[float, ...]) -> None:
    mask, _ = blobs(0, GRID)
    found = surfaces.between(mask, mask, spacing_mm)
    assert (found.dice(0), found.hausdorff_mm(), found.mean_mm()) == (1, 0, 0)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 1.25, 3.0)])
def test_a_box_moved_by_a_voxel_parts_at_its_two_ends_and_nowhere_else(spacing_mm: tuple[float, ...]) -> None:
    found = surfaces.between(box((5, 6, 7), SIZE), box((6, 6, 7), SIZE), spacing_mm)
    area, end, flat = area_of_box(SIZE, spacing_mm)
    apart = (end + flat) / area  # the end left behind, and of the other end what lies within the moved box
    step = spacing_mm[0]
    assert found.dice(0) == pytest.approx(1 - apart)
    assert found.dice(0.99 * step) == pytest.approx(1 - apart)
    assert found.dice(step) == 1
    assert found.hausdorff_mm() == found.hausdorff_mm(100) == step
    assert found.mean_mm() == pytest.approx(step * apart)


@pytest.mark.parametrize("axis", range(3))
def test_distances_are_in_millimetres_along_every_axis(axis: int) -> None:
    spacing_mm = (5.0, 0.7, 1.3)
    low = [6, 6, 6]
    low[axis] += 3
    found = surfaces.between(box((6, 6, 6), (9, 9, 9)), box(low, (9, 9, 9)), spacing_mm)
    assert found.hausdorff_mm(100) == pytest.approx(3 * spacing_mm[axis])


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
@pytest.mark.parametrize(("inner_mm", "outer_mm"), [(12, 15), (9, 20)])
def test_concentric_balls_lie_apart_by_the_difference_of_their_radii(
    spacing_mm: tuple[float, ...], inner_mm: float, outer_mm: float
) -> None:
    """A sphere crosses each of its cells, so their centres lie within half a diagonal of it: at both ends, and once
    more because the nearest cell need not lie on the same ray."""
    grid = [2 * math.ceil(outer_mm / step) + 5 for step in spacing_mm]
    found = surfaces.between(ball(inner_mm, spacing_mm, grid), ball(outer_mm, spacing_mm, grid), spacing_mm)
    half_mm = math.hypot(*spacing_mm) / 2
    for figure in (found.hausdorff_mm(), found.hausdorff_mm(100), found.mean_mm()):
        assert abs(figure - (outer_mm - inner_mm)) <= 3 * half_mm
    assert found.dice(outer_mm - inner_mm + 3 * half_mm) == 1


def test_finer_voxels_bring_the_distance_of_balls_to_its_true_value() -> None:
    """The mean reads low by less than a voxel, since the nearest of many cells is sought; HD95 by far less."""
    means, percentiles = [], []
    for step in (1.0, 0.5, 0.25):
        grid = [2 * math.ceil(16 / step) + 5] * 3
        found = surfaces.between(*(ball(radius, (step,) * 3, grid) for radius in (12, 15)), (step,) * 3)
        means.append(3 - found.mean_mm())
        percentiles.append(abs(found.hausdorff_mm() - 3))
        assert 0 < means[-1] < step
    assert means == sorted(means, reverse=True)
    assert percentiles == sorted(percentiles, reverse=True)
    assert percentiles[-1] < 0.02


def test_far_islands_are_measured_exactly_whether_few_or_many() -> None:
    """Beyond 12 voxels another method answers if the points are many."""
    for length in (2, 34):
        one, other = (
            box((0, 0, 0), (2, length, length), (60, 40, 40)),
            box((50, 0, 0), (2, length, length), (60, 40, 40)),
        )
        assert surfaces.between(one, other, (1.5, 1, 1)).hausdorff_mm() == pytest.approx(75, rel=1e-6)


def test_the_order_of_an_array_in_memory_says_nothing() -> None:
    """As scans come from NIfTI, and from axes that were swapped."""
    spacing_mm = (1.5, 1, 0.5)
    one, other = blobs(0, (30, 60, 60))
    one[:, :, 40:], other[:, :, :48] = False, False  # far and many: the distance transform is asked as well
    expected = surfaces.between(one, other, spacing_mm)
    for turned in (np.asfortranarray, lambda mask: np.ascontiguousarray(mask.swapaxes(0, 1)).swapaxes(0, 1)):
        found = surfaces.between(turned(one), turned(other), spacing_mm)
        assert (found.hausdorff_mm(), found.mean_mm(), found.dice(2)) == pytest.approx(
            (expected.hausdorff_mm(), expected.mean_mm(), expected.dice(2))
        )


def test_a_missed_structure_is_infinitely_far_and_an_absent_one_says_nothing() -> None:
    there = box((5, 6, 7), SIZE)
    for one, other in ((there, NOTHING), (NOTHING, there)):
        found = surfaces.between(one, other, (1, 1, 1))
        assert (found.dice(3), found.hausdorff_mm(), found.mean_mm()) == (0, math.inf, math.inf)
    found = surfaces.between(NOTHING, NOTHING, (1, 1, 1))
    assert all(math.isnan(figure) for figure in (found.dice(3), found.hausdorff_mm(), found.mean_mm()))


def test_a_mask_at_the_border_of_the_grid_is_closed_there() -> None:
    full, inside = np.ones((4, 5, 6), bool), box((1, 1, 1), (2, 3, 4), (4, 5, 6))
    padded = surfaces.between(np.pad(full, 3), np.pad(inside, 3), (1, 1, 1))
    found = surfaces.between(full, inside, (1, 1, 1))
    assert found.hausdorff_mm() == padded.hausdorff_mm()
    assert found.dice(0.5) == pytest.approx(padded.dice(0.5))


@pytest.mark.parametrize("axis", range(3))
def test_one_slice_is_measured_within_its_plane(axis: int) -> None:
    """A square that moved keeps most of its area: counted as a slab, its two faces would flatter it."""
    grid, low, size = [20] * 3, [5] * 3, [8] * 3
    grid[axis] = size[axis] = 1
    low[axis] = 0
    moved = list(low)
    moved[axis - 1] += 2
    for thickness_mm in (1.0, 10.0):
        spacing_mm = [1.0] * 3
        spacing_mm[axis] = thickness_mm
        found = surfaces.between(box(low, size, grid), box(moved, size, grid), spacing_mm)
        assert found.hausdorff_mm() == 2
        assert found.reference.areas_mm2.sum() == pytest.approx(4 * 7 + 4 * math.sqrt(0.5))
        assert found.dice(0) < 0.7


def test_grids_of_one_row_and_of_one_voxel_have_distances() -> None:
    row, moved = box((0, 0, 2), (1, 1, 4), (1, 1, 12)), box((0, 0, 5), (1, 1, 4), (1, 1, 12))
    assert surfaces.between(row, moved, (1, 1, 2.0)).hausdorff_mm() == 6
    assert surfaces.between(np.ones((1, 1, 1), bool), np.ones((1, 1, 1), bool), (1, 1, 1)).dice(0) == 1


@pytest.mark.parametrize(
    ("mask", "spacing_mm", "told"),
    [
        (NOTHING[1:], (1, 1, 1), "one shape"),
        (NOTHING.astype(np.uint8), (1, 1, 1), "must be boolean, not bool and uint8"),
        (NOTHING, (1, 0, 1), "positive"),
        (NOTHING, (1, 1), "positive"),
    ],
)
def test_what_cannot_be_compared_is_refused(mask: np.ndarray, spacing_mm: tuple[float, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        surfaces.between(NOTHING, mask, spacing_mm)


def test_tolerances_and_percentiles_out_of_range_are_refused() -> None:
    found = surfaces.between(NOTHING, NOTHING, (1, 1, 1))
    with pytest.raises(ValueError, match="must not be negative"):
        found.dice(-1)
    with pytest.raises(ValueError, match="within 0 and 100"):
        found.hausdorff_mm(101)


@pytest.mark.filterwarnings("ignore:Please import .* from the .scipy.ndimage. namespace:DeprecationWarning")
@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
@pytest.mark.parametrize("grid", [GRID, (1, 40, 30), (2, 25, 31)])
def test_the_figures_are_those_of_surface_distance(grid: tuple[int, int, int], spacing_mm: tuple[float, ...]) -> None:
    import surface_distance as peer

    thin = grid[0] == 1
    for seed in range(3):
        one, other = blobs(seed, grid)
        found = surfaces.between(one, other, spacing_mm)
        if thin:
            one, other = one[0], other[0]
        expected = peer.compute_surface_distances(one, other, spacing_mm[1:] if thin else spacing_mm)
        for tolerance_mm in (0.0, 1.1, 2.3):
            share = peer.compute_surface_dice_at_tolerance(expected, tolerance_mm)
            assert found.dice(tolerance_mm) == pytest.approx(share, abs=1e-9)
        for percentile in (50, 95, 100):
            assert found.hausdorff_mm(percentile) == pytest.approx(peer.compute_robust_hausdorff(expected, percentile))
        assert found.mean_mm() == pytest.approx(np.mean(peer.compute_average_surface_distance(expected)))
