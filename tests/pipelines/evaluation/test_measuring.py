"""Scores of a case: a miss is the worst there is, an absence says nothing, unknown structures are left alone."""

import math
from itertools import product

import numpy as np
import pytest

from pipelines.evaluation.definitions import METRICS
from pipelines.evaluation.measuring import Told, measure
from pipelines.evaluation.score import Score, Subject, of_record
from pipelines.scans import vocabulary
from pipelines.scans.contracts import CONTRACTS
from pipelines.scans.structure import IGNORED

BRATS = CONTRACTS["brats"].annotated
WORDS = vocabulary.default()
ONE_MM = (1.0, 1.0, 1.0)
CASE = Subject("c", "p", "brats", "flair")


def scores(
    annotated: tuple[str, ...],
    reference: np.ndarray,
    predicted: np.ndarray,
    spacing_mm: tuple[float, float, float] = ONE_MM,
    never_drawn: frozenset[str] = frozenset(),
) -> dict[str, Score]:
    found = measure(CASE, reference, predicted, spacing_mm, annotated, WORDS, never_drawn)
    return {score.structure: score for score in found}


def full(name: str, size: int = 4, kind: type = np.uint8) -> np.ndarray:
    return np.full((size, size, size), WORDS[name].id, kind)


def test_a_region_is_the_union_of_its_parts() -> None:
    reference, predicted = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    reference[0], predicted[0] = WORDS["tumour_oedema"].id, WORDS["tumour_enhancing"].id
    found = scores(BRATS, reference, predicted)
    assert found["whole_tumour"].dice == 1
    assert (found["tumour_oedema"].dice, found["tumour_oedema"].status) == (0, "missed")
    assert (found["tumour_enhancing"].dice, found["tumour_enhancing"].status) == (0, "invented")
    assert math.isnan(found["tumour_necrotic_core"].dice)
    assert found["tumour_necrotic_core"].status == "absent"


def test_a_structure_that_was_not_annotated_is_not_scored() -> None:
    assert list(scores(("kidney",), full("kidney"), full("kidney"))) == ["kidney"]


def test_a_structure_that_no_scan_of_the_cohort_has_is_not_scored() -> None:
    """Nobody showed it to the network: a voxel of it would be a Dice of 0 that says nothing of the others."""
    predicted = full("kidney")
    predicted[0] = WORDS["liver"].id
    assert list(scores(("kidney", "liver"), full("kidney"), predicted, never_drawn=frozenset({"liver"}))) == ["kidney"]


def test_a_union_is_found_where_its_parts_are() -> None:
    """A source called a kidney what the network tells as left and right; and the other way round."""
    predicted = full("kidney_left", kind=np.int16)
    predicted[2:] = WORDS["kidney_right"].id
    assert {name: s.dice for name, s in scores(("kidney",), full("kidney"), predicted).items()} == {"kidney": 1}
    found = scores(("kidney_left", "kidney_right"), predicted, predicted)
    assert {name: s.dice for name, s in found.items()} == {"kidney_left": 1, "kidney_right": 1, "kidney": 1}


def test_undecided_voxels_are_scored_neither_way() -> None:
    reference = full("spleen", kind=np.int16)
    reference[2:] = IGNORED
    found = scores(("spleen",), reference, full("spleen"))["spleen"]
    assert (found.dice, found.reference_ml, found.predicted_ml) == (1, 0.032, 0.032)


@pytest.mark.parametrize("missed", [True, False])
def test_one_side_empty_is_the_worst_there_is(missed: bool) -> None:
    nothing, something = np.zeros((10, 20, 30), np.uint8), np.zeros((10, 20, 30), np.uint8)
    something[4:6, 4:6, 4:6] = WORDS["kidney_tumour"].id
    sides = (something, nothing) if missed else (nothing, something)
    found = scores(("kidney_tumour",), *sides, spacing_mm=(3.0, 1.0, 1.0))["kidney_tumour"]
    diagonal_mm = math.hypot(30, 20, 30)
    assert found.status == ("missed" if missed else "invented")
    assert (found.dice, found.surface_dice, found.lesion_f1, found.volume_error_percent) == (0, 0, 0, 200)
    assert (found.hd95_mm, found.mean_surface_mm) == pytest.approx((diagonal_mm, diagonal_mm))
    assert (found.lesion_sensitivity == 0) is missed
    assert found.lesion_precision == 0


def test_volumes_and_distances_are_in_the_units_of_the_spacing() -> None:
    reference, predicted = np.zeros((12, 12, 12), np.uint8), np.zeros((12, 12, 12), np.uint8)
    reference[2:8, 2:8, 2:8] = predicted[3:9, 2:8, 2:8] = WORDS["liver"].id
    found = scores(("liver",), reference, predicted, spacing_mm=(5.0, 1.0, 1.0))["liver"]
    assert found.reference_ml == found.predicted_ml == pytest.approx(216 * 5 / 1000)
    assert found.volume_error_percent == 0
    assert found.dice == pytest.approx(5 / 6)
    assert 4.5 < found.hd95_mm <= 5  # one slice, less what the rounding of corners takes
    assert math.isnan(found.lesion_f1)  # an organ has no lesions


def test_what_reaches_the_border_of_the_scan_is_marked() -> None:
    inside, cut = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.uint8)
    inside[2:5, 2:5, 2:5] = cut[2:5, 2:5, 5:] = WORDS["liver"].id
    assert not scores(("liver",), inside, cut)["liver"].cut
    assert scores(("liver",), cut, inside)["liver"].cut


def test_what_the_network_said_of_itself_stands_beside() -> None:
    told = Told({"liver": 0.7}, {"liver": 0.9})
    (found,) = measure(CASE, full("liver"), full("liver"), ONE_MM, ("liver",), WORDS, told=told)
    assert (found.confidence, found.flip_dice, found.case_id, found.patient) == (0.7, 0.9, "c", "p")


def test_a_score_comes_back_from_its_record() -> None:
    for score in scores(BRATS, full("tumour_oedema"), full("tumour_enhancing")).values():
        back = of_record(score.to_json())
        assert repr(back) == repr(score)  # NaN is not itself
    with pytest.raises(ValueError, match="no column patient"):
        of_record({"case_id": "c"})


def test_no_figure_gets_better_by_a_miss() -> None:
    """Whole structures: all figures. Lesions, each in turn: those of lesions. Voxels that were hit: Dice.

    (Deleting a lesion may raise Dice, if most of what was predicted there was wrong: it was more false than hit.)
    """
    rng = np.random.default_rng(0)
    for _ in range(20):
        reference, predicted = _lesions(rng), _lesions(rng)
        before = scores(("kidney_tumour",), reference, predicted)["kidney_tumour"]
        for missed in _each_hit_deleted(reference, predicted):
            after = scores(("kidney_tumour",), reference, missed)["kidney_tumour"]
            for key in ("lesion_sensitivity", "lesion_precision", "lesion_f1"):
                assert not getattr(after, key) > getattr(before, key) + 1e-12, key
            kept = np.where((reference > 0) & (missed == 0), 0, predicted)
            assert scores(("kidney_tumour",), reference, kept)["kidney_tumour"].dice <= before.dice
        nothing = scores(("kidney_tumour",), reference, np.zeros_like(reference))["kidney_tumour"]
        for metric in METRICS:
            sign = 1 if metric.better == "higher" else -1
            assert sign * getattr(nothing, metric.key) <= sign * getattr(before, metric.key), metric.key


def _lesions(rng: np.random.Generator) -> np.ndarray:
    """Cubes with air between them, some here and some there."""
    found = np.zeros((20, 20, 20), np.uint8)
    for d, h, w in product((1, 8, 15), repeat=3):
        if rng.random() < 0.5:
            edge = rng.integers(1, 5)
            found[d : d + edge, h : h + edge, w : w + edge] = WORDS["kidney_tumour"].id
    found[1, 1, 1] = WORDS["kidney_tumour"].id
    return found


def _each_hit_deleted(reference: np.ndarray, predicted: np.ndarray) -> list[np.ndarray]:
    found = []
    for d, h, w in product((1, 8, 15), repeat=3):
        place = (slice(d, d + 5), slice(h, h + 5), slice(w, w + 5))
        if reference[place].any() and predicted[place].any():
            found.append(predicted.copy())
            found[-1][place] = 0
    return found
