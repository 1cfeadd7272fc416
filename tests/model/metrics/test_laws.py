"""Turning a hit into a miss never improves a figure: which laws hold for voxels, for lesions and for structures.

Voxel:      Dice falls with every hit voxel that is taken from a prediction. No law of the kind holds for distances: a
            hole in a prediction that is too large has a surface, which may be nearer to the reference (shown below).
Lesion:     take away a predicted lesion so that the one it hit is missed. Sensitivity and F1 fall, precision does not
            rise. If the lesion was well drawn (its surface within the tolerance; nearer than HD95; nearer than the
            mean) surface Dice does not rise, HD95 and the mean distance do not fall.
Structure:  with nothing predicted every figure is the worst there is.
"""

import math

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.metrics import borders, cropping, lesions, overlap, surfaces
from model.metrics.surfaces import Surfaces
from tests.model.metrics.shapes import SPACINGS_MM, blobs, box, seeds

GRID = (12, 14, 16)
TOLERANCE_MM = 1.5
EXACT = 1e-9  # of figures that are sums of the same numbers in another order
spacings = st.sampled_from(SPACINGS_MM)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, share=st.floats(0.01, 1))
def test_a_hit_voxel_that_becomes_a_miss_lowers_dice(seed: int, share: float) -> None:
    reference, predicted = blobs(seed, GRID)
    hits = np.flatnonzero(reference & predicted)
    taken = np.random.default_rng(seed).choice(hits, math.ceil(share * len(hits)), replace=False)
    worse = predicted.copy()
    worse.ravel()[taken] = False
    before, after = overlap.counts(reference, predicted), overlap.counts(reference, worse)
    assert (after.tp, after.fn) == (before.tp - len(taken), before.fn + len(taken))
    assert overlap.dice(reference, worse) < overlap.dice(reference, predicted)


def test_a_hit_voxel_that_becomes_a_miss_may_bring_surfaces_nearer() -> None:
    """The prediction is too large by 3 voxels all around. Hollowed out, its inner surface lies on the reference's."""
    reference, predicted = box((10, 10, 10), (6, 6, 6), (26,) * 3), box((7, 7, 7), (12, 12, 12), (26,) * 3)
    full, hollow = (surfaces.between(reference, mask, (1, 1, 1)) for mask in (predicted, predicted & ~reference))
    assert overlap.dice(reference, predicted & ~reference) == 0
    assert hollow.dice(1) > full.dice(1)
    assert hollow.mean_mm() < full.mean_mm()


def test_a_hit_voxel_that_becomes_a_miss_may_part_lesions_that_had_run_together() -> None:
    bridge = box((4, 4, 7), (1, 1, 2))
    lesion_pair = box((3, 3, 2), (4, 4, 5)) | box((3, 3, 9), (4, 4, 5))
    reference, predicted = lesion_pair | box((4, 4, 7), (1, 1, 0)), lesion_pair | bridge
    assert lesions.detect(reference, predicted, (1, 1, 1)).sensitivity == 0.5
    assert lesions.detect(reference, predicted & ~bridge, (1, 1, 1)).sensitivity == 1


@settings(max_examples=60, deadline=None)
@given(seed=seeds, spacing_mm=spacings)
def test_a_hit_lesion_that_becomes_a_miss_improves_no_figure_of_detection(
    seed: int, spacing_mm: tuple[float, ...]
) -> None:
    reference, predicted = blobs(seed, (16, 18, 20))
    before = lesions.detect(reference, predicted, spacing_mm)
    for component in components(predicted):
        after = lesions.detect(reference, predicted & ~component, spacing_mm)
        assert len(after.pairs) <= len(before.pairs)
        if len(after.pairs) < len(before.pairs):  # no other one takes its place: its lesion is missed now
            assert len(after.missed_mm3) == len(before.missed_mm3) + 1
            assert after.sensitivity < before.sensitivity
            assert after.f1 < before.f1
            assert after.precision <= before.precision or (math.isnan(after.precision) and before.precision == 1)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, spacing_mm=spacings)
@example(seed=14591, spacing_mm=(0.5, 1.25, 3.0))  # of a lesion that is as far as HD95, which may lie beyond the 95 %
def test_a_well_drawn_lesion_that_becomes_a_miss_improves_no_figure_of_surfaces(
    seed: int, spacing_mm: tuple[float, ...]
) -> None:
    reference, predicted = blobs(seed, (16, 18, 20))
    before = surfaces.between(reference, predicted, spacing_mm)
    for component in components(predicted):
        own = surfaces.between(reference, component, spacing_mm).predicted
        after = surfaces.between(reference, predicted & ~component, spacing_mm)
        if own.distances_mm.max() <= TOLERANCE_MM:
            assert after.dice(TOLERANCE_MM) <= before.dice(TOLERANCE_MM) + EXACT
        if own.distances_mm.max() < before.predicted.percentile_mm(95):
            assert after.hausdorff_mm() >= before.hausdorff_mm()
        if own.mean_mm() <= before.predicted.mean_mm():
            assert after.mean_mm() >= before.mean_mm() - EXACT


@settings(max_examples=60, deadline=None)
@given(seed=seeds, spacing_mm=spacings)
def test_nothing_is_worse_than_a_missed_structure(seed: int, spacing_mm: tuple[float, ...]) -> None:
    reference, predicted = blobs(seed, GRID)
    nothing, diagonal_mm = (
        np.zeros(GRID, bool),
        math.hypot(*(n * step for n, step in zip(GRID, spacing_mm, strict=True))),
    )
    assert overlap.dice(reference, nothing) == 0 <= overlap.dice(reference, predicted)
    for module in (surfaces, borders):
        missed, found = (module.between(reference, mask, spacing_mm) for mask in (nothing, predicted))
        assert missed.dice(TOLERANCE_MM) == 0 <= found.dice(TOLERANCE_MM)
        assert missed.hausdorff_mm() == math.inf
        assert found.hausdorff_mm(100) <= diagonal_mm  # what a miss counts in place of infinity
        assert not isinstance(missed, Surfaces) or missed.mean_mm() == math.inf
    detected = lesions.detect(reference, nothing, spacing_mm)
    assert detected.sensitivity == detected.f1 == 0


def components(mask: np.ndarray) -> list[np.ndarray]:
    labels = lesions.components(mask)
    return [labels == number for number in range(1, labels.max() + 1)]


def test_the_box_around_two_masks_is_that_of_both() -> None:
    one, other = box((1, 5, 2), (2, 3, 4), GRID), box((8, 0, 3), (2, 3, 1), GRID)
    assert cropping.joint_box(one, other) == (slice(1, 10), slice(0, 8), slice(2, 6))
    assert cropping.joint_box(np.zeros(GRID, bool)) is None
