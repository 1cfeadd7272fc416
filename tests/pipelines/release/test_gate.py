"""The gate: every way a version is refused, and the one way it is accepted."""

import math

import pytest

from pipelines.release.gate import decide

FLOORS = {"default": 0.5, "kidney": 0.8}


def test_accepts_a_version_at_its_floors_without_a_holder() -> None:
    assert decide({"kidney": 0.8, "myocardium": 0.5}, FLOORS, 0.02, None).accepted


@pytest.mark.parametrize(
    ("dice", "holder", "reason"),
    [
        ({"kidney": 0.79}, None, "kidney: Dice 0.790 is below its floor 0.800"),
        ({"kidney": 0.9, "myocardium": 0.49}, None, "myocardium: Dice 0.490 is below its floor 0.500"),
        ({"kidney": math.nan}, None, "kidney: no Dice was measured"),
        ({"kidney": None}, None, "kidney: no Dice was measured"),
        ({"myocardium": 0.9}, None, "kidney: no Dice was measured, its floor is 0.800"),
        ({"kidney": 0.9}, {"kidney": 0.9, "myocardium": 0.7}, "myocardium: no Dice was measured, its floor is 0.500"),
        ({"kidney": 0.9}, {"kidney": 0.93}, "kidney: Dice 0.900 is 0.030 below the present holder's 0.930"),
        ({}, None, "no structure has a Dice"),
    ],
)
def test_refuses_and_names_the_structure(
    dice: dict[str, float | None], holder: dict[str, float | None] | None, reason: str
) -> None:
    decision = decide(dice, FLOORS, 0.02, holder)
    assert not decision.accepted
    assert any(found.startswith(reason) for found in decision.reasons), decision.reasons


def test_allowed_drop_is_allowed_to_the_last_bit() -> None:
    assert decide({"kidney": 0.83}, FLOORS, 0.02, {"kidney": 0.85}).accepted


def test_holder_without_a_figure_does_not_count() -> None:
    assert decide({"kidney": 0.9}, FLOORS, 0.02, {"kidney": math.nan, "myocardium": None}).accepted


def test_every_reason_is_given() -> None:
    assert len(decide({"kidney": 0.1, "myocardium": 0.1}, FLOORS, 0.02, {"kidney": 0.9}).reasons) == 3
