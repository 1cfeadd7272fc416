"""A real step on a GPU against the certificate that its calibration makes."""

import time
from dataclasses import replace

import pytest
import torch

from model.certificate.calibrate import LIMIT_S, Bench, calibrate
from model.certificate.launch_plan import LaunchPlan
from model.certificate.memory import memory
from model.certificate.simulate import fit_config, made_up_batch, made_up_run, simulate
from model.certificate.timing import timing
from model.engine.hardware import described
from model.engine.parallelize import ParallelConfig, parallelize
from model.engine.ranks import Ranks
from model.engine.trainer import accumulate, new_state, update
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer

CUDA = torch.device("cuda", 0)
PLAN = LaunchPlan(
    network=PRESETS["base"], classes=4, channels=1, patch=(128, 128, 128), ranks=1, group=1, strategy="ddp",
    checkpointing="selective", micro_batch=1, global_batch=2, precision="float16",
)  # fmt: skip
WARM_UP, STEPS = 2, 5

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch sees")


def test_a_step_takes_the_time_and_memory_that_a_calibrated_certificate_says() -> None:
    """Time to 25 %, memory to 10 %; the calibration itself takes at most a minute."""
    gpu, began = described(torch.cuda.get_device_properties(CUDA)), time.monotonic()
    found = calibrate(PLAN, gpu, torch.cuda.get_device_name(CUDA), False, Bench(CUDA))
    assert time.monotonic() - began < 1.1 * LIMIT_S
    assert all(part.measured_s for part in found.parts)
    record = simulate(replace(PLAN, strategy="none"), gpu.memory_bytes)
    step_s, peak_bytes = measured_step(PLAN, CUDA)
    assert timing(record, PLAN, gpu, found.applied()).step_s == pytest.approx(step_s, rel=0.25)
    assert memory(record).peak_bytes == pytest.approx(peak_bytes, rel=0.10)


def measured_step(plan: LaunchPlan, device: torch.device) -> tuple[float, int]:
    """Seconds and peak bytes of the training's own step on made-up patches."""
    ranks = Ranks(0, 1, device)
    with torch.device("meta"):
        network = MedSegFormer(plan.network, plan.classes).train()
    parallel = parallelize(network, ParallelConfig("auto", plan.checkpointing), ranks, plan.precision)
    fit = fit_config(plan, plan.accumulation)
    run = made_up_run(parallel, plan, fit, ranks)
    state, batch = new_state(parallel.network, fit), made_up_batch(plan).to(device)
    for number in range(WARM_UP + STEPS):
        if number == WARM_UP:
            torch.cuda.synchronize()
            began = time.perf_counter()
        accumulate(run, state, iter([batch] * plan.accumulation))
        update(state, fit.clip_norm)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / STEPS, torch.cuda.max_memory_allocated(device)
