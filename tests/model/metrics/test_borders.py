"""Surface Dice and HD95 as panoptica and MedPy define them; against brats-evaluate itself: benchmarks/brats.py."""

import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt

from model.metrics import borders
from tests.model.metrics.shapes import GRID, NOTHING, SPACINGS_MM, blobs, box


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_every_border_voxel_counts_the_same_and_both_directions_are_pooled(spacing_mm: tuple[float, ...]) -> None:
    one, other = blobs(0, GRID)
    found = borders.between(one, other, spacing_mm)
    edges = [mask & ~binary_erosion(mask) for mask in (one, other)]
    maps = [distance_transform_edt(~edge, sampling=spacing_mm) for edge in edges]
    directed = [maps[0][edges[1]], maps[1][edges[0]]]
    assert found.hausdorff_mm() == pytest.approx(np.percentile(np.hstack(directed), 95))
    for tolerance_mm in (0.0, 1.1, 2.3):
        expected = np.mean([np.mean(side <= tolerance_mm) for side in directed])
        assert found.dice(tolerance_mm) == pytest.approx(expected)


def test_a_box_in_a_box_has_six_borders_of_known_distance() -> None:
    found = borders.between(box((8, 8, 8), (3, 3, 3)), box((5, 5, 5), (9, 9, 9)), (1, 1, 1))
    assert found.hausdorff_mm(0) == 3
    assert found.hausdorff_mm(100) == math.sqrt(27)
    assert (found.dice(2.9), found.dice(math.sqrt(27))) == (0, 1)


def test_a_missed_structure_is_infinitely_far_and_an_absent_one_says_nothing() -> None:
    there = box((5, 6, 7), (3, 3, 3))
    for one, other in ((there, NOTHING), (NOTHING, there)):
        found = borders.between(one, other, (1, 1, 1))
        assert (found.dice(1), found.hausdorff_mm()) == (0, math.inf)
    nothing = borders.between(NOTHING, NOTHING, (1, 1, 1))
    assert math.isnan(nothing.dice(1))
    assert math.isnan(nothing.hausdorff_mm())
