"""What the power of the gate is told to be: near 1 for an equal version, at most 2.5 in 100 at the margin."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pipelines.evaluation.score import Score
from pipelines.release import plan, power
from pipelines.release.power import EVERYTHING, TOLD, GatePower, PassingRate
from tests.conftest import REPOSITORY
from tests.pipelines.evaluation.made import NOTHING, scored

BOUNDS = plan.read(REPOSITORY / plan.FILE).bounds


def version(seed: int, spread: float = 0.05, count: int = 60, structures: Sequence[str] = ("kidney",)) -> list[Score]:
    rng = np.random.default_rng(seed)
    return [
        scored(f"case-{number:02d}", min(0.99, 0.85 + spread * float(rng.standard_normal())), structure=name)
        for number in range(count)
        for name in structures
    ]


def of(
    found: GatePower, patients: int, metric: str = "dice", structure: str = "kidney", group: str = ""
) -> PassingRate:
    wanted = (patients, structure, group, metric)
    return next(r for r in found.rates if (r.patients, r.structure, r.group, r.metric) == wanted)


def test_power_rises_with_patients_and_falls_with_the_true_difference() -> None:
    found = power.power(version(1, spread=0.11), None, BOUNDS, (30, 100), repetitions=200)
    few, many = (of(found, patients).passes for patients in (30, 100))
    assert few[0.0] < many[0.0]
    assert many[0.0] > 0.8
    for passes in (few, many):
        assert list(passes.values()) == sorted(passes.values())
        assert passes[-1.0] <= 0.05
        assert passes[-1.5] <= 0.005


def test_all_together_pass_no_oftener_than_any_alone() -> None:
    found = power.power(version(1, structures=("kidney", "spleen")), None, BOUNDS, (41,), repetitions=200)
    together = found.together()[41]
    for rate in found.rates:
        assert all(together[share] <= rate.passes[share] for share in TOLD)


def test_versions_that_agree_more_are_told_apart_better() -> None:
    alike, unlike = (power.power(version(1), None, BOUNDS, (30,), agreement, 200) for agreement in (0.95, 0.0))
    assert of(alike, 30).passes[-0.5] > of(unlike, 30).passes[-0.5]


def test_two_versions_need_no_assumption_and_their_own_difference_falls_out() -> None:
    better = [replace(score, dice=score.dice + 0.2) for score in version(2)]
    found = power.power(better, version(1), BOUNDS, (60,), repetitions=200)
    assert found.agreement is None
    assert of(found, 60).passes[-1.0] <= 0.05


def test_too_few_patients_never_pass() -> None:
    found = power.power(version(1), None, BOUNDS, (29,), repetitions=50)
    assert of(found, 29).note == "too few"
    assert set(found.together()[29].values()) == {0.0}


def test_a_small_group_keeps_all_from_passing() -> None:
    scores = [replace(score, source="msd" if number < 6 else "kits") for number, score in enumerate(version(1))]
    found = power.power(scores, None, BOUNDS, (60,), repetitions=50)
    assert of(found, 60, group="source: msd").note == "too few"
    assert of(found, 60, group="source: kits").passes[0.5] > 0.9
    assert found.together()[60][0.5] == 0


def test_what_a_scan_does_not_have_counts_for_nothing() -> None:
    absent = [scored(f"other-{number}", NOTHING) for number in range(40)]
    found = power.power([*version(1), *absent], None, BOUNDS, (41,), repetitions=20)
    assert found.patients == 60
    with pytest.raises(ValueError, match="no structure has a figure"):
        power.power(absent, None, BOUNDS, (41,))


def test_it_is_the_same_every_time_and_json() -> None:
    one, other = (power.power(version(1), None, BOUNDS, (30,), repetitions=50).to_json() for _ in range(2))
    assert one == other
    assert one["rates"][-1]["structure"] == EVERYTHING
    assert set(one["rates"][-1]["passes"]) >= {"-1", "0", "-0.5"}
