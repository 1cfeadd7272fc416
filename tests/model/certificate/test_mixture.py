"""A run of several sources: its mean step, and the source that needs most memory."""

from dataclasses import replace

import pytest

from model.certificate.launch_plan import LaunchPlan, SourceShare
from model.certificate.mixture import mixture
from model.certificate.ways import GIB, Goal, estimated
from model.engine.hardware import find_gpu
from model.network.config import PRESETS

A100, GOAL = find_gpu("a100-80gb"), Goal(steps=100, within_days=1.0)
PLAN = LaunchPlan(
    network=PRESETS["nano"], classes=4, channels=2, patch=(32, 32, 32), ranks=2, group=1, strategy="ddp",
    checkpointing="none", micro_batch=1, global_batch=4, compile=True,
)  # fmt: skip


def test_a_mixed_step_is_the_mean_of_its_sources_and_its_memory_the_largest() -> None:
    small, large = (SourceShare("small", 0.75, 1, (16, 16, 16)), SourceShare("large", 0.25, 2, (32, 32, 32)))
    mixed = replace(PLAN, mix=(small, large))
    alone = [estimated(PLAN.of_source(each), A100, GOAL) for each in (small, large)]
    found = mixture(estimated(mixed, A100, GOAL), GOAL)
    step_s = 0.75 * alone[0].timing.step_s + 0.25 * alone[1].timing.step_s
    assert found["step_time_s"] == pytest.approx(step_s)
    flops = 0.75 * alone[0].plan.model_flops + 0.25 * alone[1].plan.model_flops
    assert found["model_flops_utilisation"] == pytest.approx(flops / (step_s * 2 * A100.flops))
    assert found["peak_memory_gib"] == max(each.peak_bytes for each in alone) / GIB
    assert [each["source"] for each in found["sources"]] == ["small", "large"]


def test_a_run_of_one_batch_size_has_no_mix() -> None:
    assert mixture(estimated(PLAN, A100, GOAL), GOAL) == {}
