"""The gate: every way a version is refused or cannot be judged, and the one way it passes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.evaluation.score import Score
from pipelines.release import gate, plan
from pipelines.release.gate import Measured, Verdict
from pipelines.release.plan import ReleasePlan
from tests.conftest import REPOSITORY
from tests.pipelines.evaluation.made import scored

SHIPPED = plan.read(REPOSITORY / plan.FILE)
COMMITTED = {"git_commit": "3f2a" * 10, "program": "3f2a" * 10}
HELD_OUT = "a" * 64
Change = Callable[[int, Score], Score]


def planned(**bounds: Any) -> ReleasePlan:
    """The shipped plan with other bounds."""
    changed = SHIPPED.bounds.model_copy(update={"calibration_error_at_most": None, **bounds})
    protocol = SHIPPED.modification_protocol.model_copy(update={"performance_evaluation": changed})
    return SHIPPED.model_copy(update={"modification_protocol": protocol})


PLAN = planned()


def cohort(
    change: Change = lambda _, score: score, count: int = 40, structures: Sequence[str] = ("kidney",)
) -> Measured:
    """Of patients with Dice about 0.85 in every structure; `change` makes of each score another."""
    rng = np.random.default_rng(3)
    scores = [
        change(index, scored(f"case-{index:02d}", 0.85 + 0.02 * float(rng.standard_normal()), structure=name))
        for index in range(count)
        for name in structures
    ]
    return Measured(scores, structures, HELD_OUT, origin=COMMITTED)


def shifted(by: float, where: Callable[[int], bool] = lambda _: True) -> Change:
    """Dice and distance worse by as much, with a spread of its own."""
    rng = np.random.default_rng(5)
    spread = 0.01 * rng.standard_normal(100)

    def change(index: int, score: Score) -> Score:
        step = spread[index] - (by if where(index) else 0.0)
        return replace(score, dice=score.dice + step, mean_surface_mm=score.mean_surface_mm - step)

    return change


def failed(verdict: Verdict) -> set[tuple[str, str, str]]:
    return {(check.name, check.structure, check.group) for check in verdict.checks if check.result == "fails"}


def test_a_first_version_above_its_floors_passes() -> None:
    verdict = gate.decide(cohort(), None, PLAN, 1)
    assert verdict.verdict == "passes", verdict.reasons
    assert verdict.reasons == ()
    assert {check.result for check in verdict.checks} == {"passes"}


def test_an_equal_version_passes_and_so_does_the_very_same() -> None:
    champion = cohort()
    assert gate.decide(cohort(shifted(0.0)), champion, PLAN, 2).verdict == "passes"
    assert gate.decide(champion, champion, PLAN, 2).verdict == "passes"


def test_a_worse_version_fails_and_structure_and_metric_are_named() -> None:
    worse = shifted(0.05)
    candidate = cohort(
        lambda index, s: worse(index, s) if s.structure == "spleen" else s, structures=("kidney", "spleen")
    )
    verdict = gate.decide(candidate, cohort(structures=("kidney", "spleen")), PLAN, 2)
    assert verdict.verdict == "fails"
    assert failed(verdict) == {("no worse than the champion", "spleen", "")}
    assert verdict.reasons[0].startswith("spleen: gain in Dice over the champion -0.05")


def test_worse_in_one_source_fails_though_the_mean_hides_it() -> None:
    def of_two_sources(change: Change) -> Measured:
        return cohort(lambda i, s: replace(change(i, s), source="kits" if i < 70 else "msd"), count=100)

    verdict = gate.decide(of_two_sources(shifted(0.06, lambda i: i >= 70)), of_two_sources(shifted(0.0)), PLAN, 2)
    assert failed(verdict) == {("no worse than the champion", "kidney", "source: msd")}
    assert "kidney, source: msd: gain in Dice" in verdict.reasons[0]


def test_a_group_of_few_patients_cannot_be_told() -> None:
    def of_two_sources(change: Change) -> Measured:
        return cohort(lambda i, s: replace(change(i, s), source="msd" if i < 2 else "kits"))

    verdict = gate.decide(of_two_sources(shifted(0.0)), of_two_sources(lambda _, s: s), PLAN, 2)
    assert verdict.verdict == "cannot tell"
    assert "kidney, source: msd" in verdict.reasons[0]
    assert "in 2 patients: too few for an interval" in verdict.reasons[0]


def test_what_may_be_worse_is_told_from_what_is() -> None:
    noisy = shifted(0.02)
    rng = np.random.default_rng(8)
    candidate = cohort(lambda i, s: replace(noisy(i, s), dice=s.dice - 0.02 + 0.08 * float(rng.standard_normal())))
    verdict = gate.decide(candidate, cohort(), PLAN, 2)
    assert verdict.verdict == "fails"
    assert "may be below -0.030, its lower bound is" in verdict.reasons[0]


def test_a_new_miss_fails_whatever_the_mean() -> None:
    def once(index: int, score: Score) -> Score:
        return replace(score, status="missed") if index == 7 else score

    verdict = gate.decide(cohort(once), cohort(), PLAN, 2)
    assert failed(verdict) == {("new misses", "", "")}
    assert "the champion finds kidney in case-07" in verdict.reasons[0]
    assert gate.decide(cohort(once), cohort(once), PLAN, 2).verdict == "passes"  # no new one


@pytest.mark.parametrize("count", [2, 3])
def test_two_or_three_cases_tell_nothing(count: int) -> None:
    verdict = gate.decide(cohort(count=count), None, PLAN, 1)
    assert verdict.verdict == "cannot tell"
    assert f"{count} held-out cases of at least 30" in verdict.reasons[0]


def test_a_plan_that_asks_for_fewer_patients_makes_nothing_known() -> None:
    lenient = planned(fewest_cases=2, fewest_patients=2)
    assert gate.decide(cohort(count=3), None, lenient, 1).verdict == "cannot tell"


def test_many_scans_of_few_patients_are_few() -> None:
    of_three = cohort(lambda index, score: replace(score, patient=str(index % 3)), count=60)
    verdict = gate.decide(of_three, None, PLAN, 1)
    assert verdict.verdict == "cannot tell"
    assert "3 held-out patients of at least 30" in verdict.reasons[0]


def test_a_structure_that_was_trained_and_never_held_out_fails() -> None:
    verdict = gate.decide(replace(cohort(), structures=("kidney", "liver")), None, PLAN, 1)
    assert failed(verdict) == {("measured", "liver", "")}
    assert verdict.reasons[0].startswith("liver: no held-out scan has it, and the network tells it apart")


def test_a_structure_absent_from_every_scan_has_shown_nothing() -> None:
    both = cohort(lambda _, s: replace(s, status="absent", dice=float("nan")) if s.structure == "liver" else s,
                  structures=("kidney", "liver"))  # fmt: skip
    assert ("measured", "liver", "") in failed(gate.decide(both, None, PLAN, 1))


def test_a_structure_that_the_plan_names_or_the_champion_had_must_be_measured() -> None:
    named = planned(floors={"dice": {"default": 0.5, "spleen": 0.7}})
    assert failed(gate.decide(cohort(), None, named, 1)) == {("measured", "spleen", "")}
    champion = cohort(structures=("kidney", "spleen"))
    assert failed(gate.decide(cohort(), champion, PLAN, 2)) == {("measured", "spleen", "")}


def test_a_floor_is_held_by_the_lower_bound_not_by_the_mean() -> None:
    found = gate.decide(cohort(), None, PLAN, 1)
    floor = next(check for check in found.checks if check.name == "floor")
    assert floor.low is not None
    assert floor.value is not None
    assert floor.low < floor.value
    between = planned(floors={"dice": {"default": (floor.low + floor.value) / 2}})
    verdict = gate.decide(cohort(), None, between, 1)
    assert failed(verdict) == {("floor", "kidney", "")}
    assert "may be below" in verdict.reasons[0]
    assert failed(gate.decide(cohort(), None, planned(floors={"dice": {"default": 0.9}}), 1)) == {
        ("floor", "kidney", "")
    }


def test_another_test_set_cannot_be_compared() -> None:
    verdict = gate.decide(cohort(), replace(cohort(), test_set_sha256="b" * 64), PLAN, 2)
    assert verdict.verdict == "cannot tell"
    assert "measured on test set bbbbbbbbbbbb, the candidate on another, aaaaaaaaaaaa" in verdict.reasons[0]


def test_leaving_out_the_hard_cases_is_no_improvement() -> None:
    whole = cohort()
    easy = replace(whole, scores=[score for score in whole.scores if score.case_id != "case-09"])
    assert failed(gate.decide(easy, whole, PLAN, 2)) == {("same cases", "", "")}
    told = replace(whole, left_out={"case-40": "its label file cannot be read"})
    verdict = gate.decide(told, None, PLAN, 1)
    assert failed(verdict) == {("left out", "", "")}
    assert "case-40 could not be measured" in verdict.reasons[0]


@pytest.mark.parametrize("commit", ["unknown", "3f2a-dirty", ""])
@pytest.mark.parametrize("what", ["git_commit", "program"])
def test_what_is_in_no_commit_fails_with_the_remedy(what: str, commit: str) -> None:
    verdict = gate.decide(replace(cohort(), origin={**COMMITTED, what: commit}), None, PLAN, 1)
    assert verdict.verdict == "fails"
    assert verdict.reasons[0].startswith(
        f"{what} is {commit or 'unknown'}: what made the version is in no commit; commit"
    )


def test_looks_at_the_test_set_are_limited() -> None:
    assert gate.decide(cohort(), None, PLAN, 20).verdict == "passes"
    verdict = gate.decide(cohort(), None, PLAN, 21)
    assert verdict.reasons == (
        "looks at the test set: 21, and the plan allows 20; hold out fresh scans, under a new plan",
    )


def test_calibration_is_bounded_and_not_guessed() -> None:
    bounded = planned(calibration_error_at_most=0.1)
    assert gate.decide(cohort(), None, bounded, 1).verdict == "cannot tell"
    assert gate.decide(replace(cohort(), calibration_error=0.05), None, bounded, 1).verdict == "passes"
    assert failed(gate.decide(replace(cohort(), calibration_error=0.2), None, bounded, 1)) == {
        ("calibration error", "", "")
    }


def test_an_invention_where_the_champion_rightly_said_nothing_costs() -> None:
    """Both are right in most scans without a spleen; the candidate invents one in every third."""

    def absent(_: int, score: Score) -> Score:
        return replace(score, status="absent", dice=float("nan"), mean_surface_mm=float("nan"))

    def invented(index: int, score: Score) -> Score:
        if index % 3:
            return absent(index, score)
        return replace(score, status="invented", dice=0.0, mean_surface_mm=50.0)

    champion, candidate = cohort(absent, 120), cohort(invented, 120)
    verdict = gate.decide(candidate, champion, PLAN, 2)
    compared = [check for check in verdict.checks if check.name == "no worse than the champion"]
    assert {check.result for check in compared} == {"fails"}


def test_the_verdict_is_json_with_every_check() -> None:
    told = gate.decide(cohort(), cohort(), PLAN, 2).to_json()
    assert (told["verdict"], told["reasons"]) == ("passes", [])
    assert {"name", "structure", "group", "value", "low", "bound", "result"} <= set(told["checks"][0])
