"""The ladder of sizes: order, resuming, the verdict, and what it costs. Training is a function that is given."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.params import profiles
from pipelines.training import ladder, ladder_costs
from pipelines.training.ladder import CurveEnd, Record, Rung, climb, curve_end, planned, rungs, verdict
from tests.pipelines.training.test_certification import project  # noqa: F401

CURVES = {
    "nano": (0.50, 0.51, 0.50),
    "tiny": (0.70, 0.71, 0.70),
    "small": (0.705, 0.70, 0.71),
    "base": (0.8, 0.81, 0.8),
}
Train = Callable[[Rung], tuple[CurveEnd, dict[str, Any]]]


def trainer(trained: list[str], curves: dict[str, tuple[float, ...]] = CURVES) -> Train:
    """Notes what it is asked to train."""

    def train(rung: Rung) -> tuple[CurveEnd, dict[str, Any]]:
        trained.append(rung.name)
        return CurveEnd(curves[rung.preset]), {"version": str(len(trained))}

    return train


def same_key(rung: Rung) -> str:
    return " ".join(rung.changes)


def up(steps: Sequence[Rung], folder: Path, train: Train, go_on: bool = False) -> list[str]:
    told: list[str] = []
    climb(steps, train, same_key, Record(folder), go_on, told.append)
    return told


def test_sizes_come_in_order_and_the_last_with_every_seed() -> None:
    steps = rungs(["nano", "tiny"], seeds=3, changes=["train.steps=5"], seed=7)
    assert [step.name for step in steps] == ["nano, seed 7", "tiny, seed 7", "tiny, seed 8", "tiny, seed 9"]
    assert steps[2].changes == ("train.steps=5", "model.preset=tiny", "train.seed=8")
    assert [step.repeats for step in steps] == [False, False, True, True]


@pytest.mark.parametrize(
    ("presets", "reason"),
    [
        (["huge"], "no preset 'huge'; known: nano, tiny"),
        (["tiny", "nano"], "tiny,nano must grow, each named once, in this order: nano, tiny"),
        (["nano", "nano"], "must grow"),
    ],
)
def test_a_ladder_that_does_not_rise_is_refused(presets: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rungs(presets, 1)


def test_all_rungs_are_trained_in_order_and_none_twice(tmp_path: Path) -> None:
    steps, trained = rungs(["nano", "tiny"], seeds=2), list[str]()
    up(steps, tmp_path, trainer(trained))
    assert trained == ["nano, seed 0", "tiny, seed 0", "tiny, seed 1"]
    told = up(steps, tmp_path, trainer(trained))
    assert len(trained) == 3
    assert told[0] == "nano, seed 0: done before"
    content = json.loads((tmp_path / "record.json").read_text())["rungs"]
    assert content["tiny, seed 0"]["points"] == [0.70, 0.71, 0.70]
    assert "a gain of +0.2000" in content["tiny, seed 0"]["verdict"]
    assert "| tiny, seed 1 | 0.7033 |" in (tmp_path / "record.md").read_text()


def test_a_climb_that_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    steps, trained = rungs(["nano", "tiny"], seeds=1), list[str]()

    def interrupted(rung: Rung) -> tuple[CurveEnd, dict[str, Any]]:
        if rung.preset == "tiny":
            raise KeyboardInterrupt
        return trainer(trained)(rung)

    with pytest.raises(KeyboardInterrupt):
        up(steps, tmp_path, interrupted)
    up(steps, tmp_path, trainer(trained))
    assert trained == ["nano, seed 0", "tiny, seed 0"]


def test_a_changed_setting_trains_a_rung_anew(tmp_path: Path) -> None:
    trained = list[str]()
    up(rungs(["nano"], 1, ["train.steps=5"]), tmp_path, trainer(trained))
    up(rungs(["nano"], 1, ["train.steps=6"]), tmp_path, trainer(trained))
    assert trained == ["nano, seed 0"] * 2


def test_a_size_that_does_not_pay_stops_the_climb_before_the_next_unless_told_to_go_on(tmp_path: Path) -> None:
    steps, trained = rungs(["nano", "tiny", "small", "base"], seeds=1), list[str]()
    with pytest.raises(ValueError, match=r"small, seed 0 is not better .* against noise of 0.0058.*--go-on"):
        up(steps, tmp_path, trainer(trained))
    assert trained[-1] == "small, seed 0"
    up(steps, tmp_path, trainer(trained), go_on=True)
    assert trained == ["nano, seed 0", "tiny, seed 0", "small, seed 0", "base, seed 0"]


def test_a_gain_within_the_noise_of_the_curve_is_none() -> None:
    steady, shaky = CurveEnd((0.80, 0.80, 0.80)), CurveEnd((0.78, 0.84, 0.81))
    assert not verdict(steady, shaky)[0]  # +0.01, while its points differ by 0.03
    assert verdict(steady, CurveEnd((0.81, 0.811, 0.81)))[0]
    assert not verdict(steady, steady)[0]


def test_a_rung_is_judged_by_the_end_of_its_curve(tmp_path: Path) -> None:
    history = tmp_path / "history.csv"
    history.write_text("step,validation_dice.mean\n" + "".join(f"{n},{n / 10}\n" for n in range(1, 9)) + "9,nan\n")
    assert curve_end(history).points == (0.4, 0.5, 0.6, 0.7, 0.8)
    history.write_text("step,validation_dice.mean\n1,0.5\n")
    with pytest.raises(ValueError, match=r"1 points of validation_dice.mean.*lower train.validate_every"):
        curve_end(history)


def test_the_key_follows_parameters_not_how_gpus_share_the_work(project: Path) -> None:  # noqa: F811
    profile, rung = "smoke", rungs(["nano"], 1)[0]
    key = ladder.key_of(rung, profile)

    def with_change(change: str) -> str:
        return ladder.key_of(rungs(["nano"], 1, [change])[0], profile)

    assert with_change("train.strategy=fsdp") == key
    assert with_change("train.learning_rate=0.002") != key


def test_every_rung_has_a_price_and_the_sum_is_held_against_the_days(project: Path) -> None:  # noqa: F811
    (project / "params.yaml").write_text(profiles.proposed("smoke", ["pretrain.steps=100", "train.steps=2000"]))
    steps = planned(["nano"], 2, None, [])
    first, again = costs = ladder_costs.priced(steps, None, 2, "a100-80gb", 28.0, lambda _: None)
    assert 0 < first.pretrain_days < first.train_days
    assert (again.pretrain_days, again.train_days) == (0.0, first.train_days)  # the same encoder, trained anew
    assert first.gpu_hours == pytest.approx(48 * first.days)
    total = ladder_costs.summed(costs, 28.0)
    assert total["fits"]
    assert total["days"] == pytest.approx(first.pretrain_days + 2 * first.train_days)
    assert not ladder_costs.summed(costs, total["days"] / 2)["fits"]
