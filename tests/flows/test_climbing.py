"""`medseg plan-run` with real DVC, Prefect and MLflow on a toy project, whose curve follows the network's size."""

import json
import re

import pytest

from tests.flows.conftest import Project


def trained(text: str) -> int:
    return len(re.findall(r"Running stage 'train'", text))


@pytest.mark.slow
def test_a_ladder_is_climbed_once_and_stops_where_size_does_not_pay(fresh: Project) -> None:
    """Tiny and small are trained; small is no better, so its second seed is not."""
    command = ("plan-run", "--presets", "tiny,small", "--seeds", "2", "--run")
    ended = fresh.medseg(*command, timeout_s=900)
    assert ended.returncode == 1
    assert trained(ended.stderr) == 2
    refusal = ended.stderr.splitlines()[-1]
    assert refusal.startswith("medseg: small, seed 0 is not better than the size before it by more than noise")
    again = fresh.medseg(*command, timeout_s=300)
    assert (again.returncode, trained(again.stderr), again.stderr.splitlines()[-1]) == (1, 0, refusal)
    record = json.loads(fresh.read(".medseg/plan-run/record.json"))["rungs"]
    assert [(name, rung["version"]) for name, rung in record.items()] == [("tiny, seed 0", "1"), ("small, seed 0", "2")]
    assert record["tiny, seed 0"]["points"] == [0.701, 0.7, 0.701]
    plan = json.loads(fresh.medseg(*command[:-1], "--json").stdout)
    assert [row["mean"] is not None for row in plan["record"]] == [True, True, False]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("plan-run", "--presets", "tiny,nano"), "medseg: --presets tiny,nano must grow"),
        (("plan-run", "--set", "train.stepz=20"), "medseg: --set train.stepz=20: unknown key"),
        (("certify", "--calibrate"), "medseg: --gpu here: this machine has no GPU that PyTorch sees"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(fresh: Project, arguments: tuple[str, ...], told: str) -> None:
    ended = fresh.here(*arguments)
    assert ended.exit_code == 1
    assert ended.stderr.startswith(told)


@pytest.mark.parametrize("arguments", [("certify",), ("certify", "--calibrate", "--gpu", "h100")])
def test_a_certificate_without_gpus_and_a_calibration_of_others_are_wrong_use(
    fresh: Project, arguments: tuple[str, ...]
) -> None:
    assert fresh.here(*arguments).exit_code == 2
