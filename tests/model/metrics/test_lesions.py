"""Lesions found, missed and invented."""

import math

import numpy as np
import pytest

from model.metrics import lesions
from model.metrics.lesions import Pair
from tests.model.metrics.shapes import GRID, NOTHING, SPACINGS_MM, box

ISOTROPIC_MM = (1.0, 1.0, 1.0)


def test_each_lesion_is_hit_missed_or_invented() -> None:
    hit, missed, invented = box((1, 1, 1), (4, 4, 4)), box((10, 10, 10), (2, 3, 4)), box((18, 18, 18), (3, 3, 3))
    found = lesions.detect(hit | missed, box((2, 1, 1), (4, 4, 4)) | invented, ISOTROPIC_MM)
    assert found.pairs == (Pair(64, 64, 0.75),)
    assert (found.missed_mm3, found.spurious_mm3) == ((24,), (27,))
    assert (found.sensitivity, found.precision, found.f1) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_volumes_are_in_cubic_millimetres(spacing_mm: tuple[float, ...]) -> None:
    found = lesions.detect(box((1, 1, 1), (2, 3, 4)), NOTHING, spacing_mm)
    assert found.missed_mm3 == (pytest.approx(24 * math.prod(spacing_mm)),)


def test_one_prediction_over_two_lesions_finds_one_of_them() -> None:
    two = box((1, 1, 1), (4, 4, 4)) | box((1, 1, 6), (4, 4, 5))
    found = lesions.detect(two, box((1, 1, 1), (4, 4, 10)), ISOTROPIC_MM)
    assert [pair.reference_mm3 for pair in found.pairs] == [80]  # the larger one: its Dice is higher
    assert (found.sensitivity, found.precision) == (0.5, 1)


def test_two_fragments_of_a_lesion_are_one_hit_and_one_invention() -> None:
    found = lesions.detect(
        box((1, 1, 1), (4, 4, 10)), box((1, 1, 1), (4, 4, 4)) | box((1, 1, 6), (4, 4, 5)), ISOTROPIC_MM
    )
    assert [pair.predicted_mm3 for pair in found.pairs] == [80]
    assert (found.sensitivity, found.precision) == (1, 0.5)


def test_the_best_pair_gives_way_if_two_others_are_worth_more() -> None:
    """In a row: one predicted component over parts of both lesions, more of the second, which another one touches."""
    a, b = box((1, 1, 0), (1, 1, 10)), box((1, 1, 11), (1, 1, 10))
    over_both, beside = box((1, 1, 5), (1, 1, 12)), box((1, 1, 18), (1, 1, 6))
    alone = lesions.detect(a | b, over_both, ISOTROPIC_MM)
    assert alone.pairs == (Pair(10, 12, pytest.approx(12 / 22)),)
    both = lesions.detect(a | b, over_both | beside, ISOTROPIC_MM)
    assert both.pairs == (Pair(10, 12, pytest.approx(10 / 22)), Pair(10, 6, pytest.approx(6 / 16)))


def test_voxels_that_touch_by_a_corner_are_one_lesion() -> None:
    assert lesions.detect(box((1, 1, 1), (1, 1, 1)) | box((2, 2, 2), (1, 1, 1)), NOTHING, ISOTROPIC_MM).missed_mm3 == (
        2,
    )
    flat = np.eye(4, dtype=bool)[None]
    assert lesions.detect(flat, flat, ISOTROPIC_MM).pairs == (Pair(4, 4, 1),)


def test_lesions_of_a_size_can_be_asked_for() -> None:
    small, large = box((1, 1, 1), (1, 1, 1)), box((10, 10, 10), (5, 5, 5))
    found = lesions.detect(small | large, large, ISOTROPIC_MM)
    assert (found.sensitivity_to(0, 10), found.sensitivity_to(10, math.inf)) == (0, 1)
    assert math.isnan(found.sensitivity_to(500, math.inf))


def test_components_below_a_size_count_on_neither_side() -> None:
    small, large = box((1, 1, 1), (1, 1, 1)), box((10, 10, 10), (5, 5, 5))
    found = lesions.detect(small | large, large | box((20, 20, 20), (1, 1, 2)), ISOTROPIC_MM, smallest_mm3=3)
    assert (len(found.pairs), found.missed_mm3, found.spurious_mm3) == (1, (), ())


def test_a_missed_lesion_costs_sensitivity_and_nothing_at_all_says_nothing() -> None:
    there = box((1, 1, 1), (2, 2, 2))
    missed, invented, nothing = (
        lesions.detect(*masks, ISOTROPIC_MM) for masks in ((there, NOTHING), (NOTHING, there), (NOTHING, NOTHING))
    )
    assert (missed.sensitivity, missed.f1) == (0, 0)
    assert math.isnan(missed.precision)
    assert (invented.precision, invented.f1) == (0, 0)
    assert math.isnan(invented.sensitivity)
    assert all(math.isnan(value) for value in (nothing.sensitivity, nothing.precision, nothing.f1))


def test_noise_of_thousands_of_components_is_matched() -> None:
    noise = np.random.default_rng(0).random((2, *(3 * n for n in GRID))) < 0.02
    found = lesions.detect(*noise, ISOTROPIC_MM)
    assert len(found.pairs) + len(found.missed_mm3) > 2000
    assert 0 < found.sensitivity < 0.3


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        lesions.detect(NOTHING, NOTHING[1:], ISOTROPIC_MM)
