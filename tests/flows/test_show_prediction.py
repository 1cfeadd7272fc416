"""What `medseg predict` says at the end, of few scans and of many."""

import json
from typing import Any

import pytest
from rich.console import Console

from flows import show_prediction
from pipelines.serving.prediction import Outcome


def outcome(number: int, confidence: float | None = 0.9, failure: str = "") -> Outcome:
    measured = {"volume_ml": 12.0 if confidence is not None else 0.0, "confidence": confidence}
    structures = {} if failure else {"liver": measured, "spleen": {"volume_ml": 0.0, "confidence": None}}
    return Outcome([], failure, [], structures, 1.5, f"scan {number}")


def shown(outcomes: list[Outcome], capsys: pytest.CaptureFixture[str]) -> str:
    Console(width=160, markup=False).print(show_prediction.table(outcomes))
    return capsys.readouterr().out


def test_a_row_tells_what_was_found_how_sure_it_is_and_why_a_scan_was_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = shown([outcome(1), outcome(2, None), outcome(3, failure="spacing is outside [0.1, 12] mm")], capsys)
    rows = [line.split() for line in told.splitlines()]
    found, nothing, refused = (" ".join(row) for row in rows if row[:1] == ["scan"] and row[1].isdigit())
    assert found == "scan 1 1 of 2 liver 12 liver 0.90 1.5"
    assert nothing == "scan 2 0 of 2 1.5"
    assert refused == "scan 3 refused spacing is outside [0.1, 12] mm 1.5"


def test_of_many_scans_the_refused_and_the_least_sure_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    told = shown([*(outcome(n, 0.5 + n / 1000) for n in range(200)), outcome(777, failure="damaged")], capsys)
    assert "scan 777" in told
    assert "scan 0 " in told
    assert "scan 199" not in told
    assert "and 160 more scans" in told


def test_the_summary_is_json_without_paths_and_comes_though_scans_failed(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing:
        done_before = 4

        def outcomes(self) -> Any:
            yield from (outcome(1), outcome(2, failure="damaged"))
            raise ValueError("1 of 2 scans could not be segmented")

    with pytest.raises(ValueError, match="1 of 2"):
        show_prediction.print_results(Failing(), {"model": "m"}, as_json=True)  # type: ignore[arg-type]
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name: told[name] for name in ("model", "done", "refused", "done_before")} == {
        "model": "m", "done": 1, "refused": 1, "done_before": 4,
    }  # fmt: skip
    assert [each["refused"] for each in told["scans"]] == [None, "damaged"]
