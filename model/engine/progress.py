"""What a training run says of itself: loss, throughput, share of the hardware's peak, waiting, skipped steps."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from model.data.dataset import Batch
from model.engine.hardware import GPUS
from model.engine.numerics import for_training
from model.engine.state import TrainState
from model.engine.task import TrainingTask
from model.metrics.overlap import mean

Report = Callable[[int, dict[str, float]], None]

REPORT_EVERY_S = 5.0


class Feed:
    """The loader's batches, with the time that training waited for them and the work that they are."""

    def __init__(self, batches: Iterable[Batch], network: nn.Module, task: TrainingTask) -> None:
        self.batches, self.network, self.task = iter(batches), network, task
        self.work: dict[tuple[Any, ...], int] = {}  # FLOPs of a batch, by its sizes
        self.waited_s = 0.0
        self.voxels = self.flops = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        batch = next(self.batches)
        self.waited_s += time.perf_counter() - start
        self.voxels += batch.target.numel()
        sizes = (*batch.image.shape, *batch.spacing_mm)
        if sizes not in self.work:
            self.work[sizes] = self.task.training_flops(self.network, batch)
        self.flops += self.work[sizes]
        return batch


class TrainingProgress:
    """Reports every few seconds what happened since the last report. `world` ranks did the same in the same time."""

    def __init__(
        self, state: TrainState, steps: int, world: int, feed: Feed, peak_flops: float, report: Report
    ) -> None:
        self.steps, self.world, self.feed, self.peak_flops, self.report = steps, world, feed, peak_flops, report
        self.first_step = self.reported_step = state.step
        self.start = self.last = time.monotonic()
        self.losses: list[float] = []
        self.stalled_s = 0.0
        self.before = (0.0, 0, 0)

    def step_done(self, state: TrainState, loss: float, norm: float | None, rate: float) -> None:
        if norm is not None:
            self.losses.append(loss)
        now = time.monotonic()
        if now - self.last >= REPORT_EVERY_S or state.step == self.steps:
            self.report(state.step, self._since_last(state, now, norm, rate))
            self.last, self.losses, self.stalled_s, self.reported_step = now, [], 0.0, state.step
            self.before = (self.feed.waited_s, self.feed.voxels, self.feed.flops)

    def _since_last(self, state: TrainState, now: float, norm: float | None, rate: float) -> dict[str, float]:
        seconds = max(1e-9, now - self.last)
        waited_s, voxels, flops = (
            after - before
            for after, before in zip((self.feed.waited_s, self.feed.voxels, self.feed.flops), self.before, strict=True)
        )
        return {
            "loss": mean(self.losses),
            "learning_rate": rate,
            "gradient_norm": float("nan") if norm is None else norm,
            "loss_scale": state.scale.value,
            "skipped_steps": float(len(state.skipped)),
            "steps_per_s": (state.step - self.reported_step) / seconds,
            "voxels_per_s": self.world * voxels / seconds,
            "model_flops_utilisation": flops / seconds / self.peak_flops,
            "data_wait_fraction": waited_s / seconds,
            "checkpoint_stall_s": self.stalled_s,
            "memory_gib": memory_gib(),
            "seconds_left": (now - self.start) / (state.step - self.first_step) * (self.steps - state.step),
        }


@lru_cache(maxsize=1)
def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of one rank's matrix products: from the data sheet of a GPU, measured in 0.1 s on a CPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        peak = next((gpu.flops for gpu in GPUS.values() if gpu.family in name), float("nan"))
        return peak / 2 if precision == "float32" else peak  # float32 runs on the tensor cores as TF32, at half of it
    dtype = torch.float32  # float16 is emulated on a CPU
    if precision == "bfloat16":
        dtype = for_training(torch.bfloat16, device)
    size, times = 1024, []
    a, b = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def memory_gib() -> float:
    """The most memory that this rank has had: of its GPU, or of its process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
