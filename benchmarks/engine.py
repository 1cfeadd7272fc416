"""What the training engine costs beside the arithmetic: its share of a step, a checkpoint's stall, sharding's price.

Run     python -m benchmarks.engine [--preset tiny] [--steps 16] [--rounds 3]      # about 10 min; needs two idle cores
Prints  a line a patch: the share of a step that is not forward, backward and optimizer, with a loader process on the
        other core and with the patches made in the rank itself; how long training stands still for an asynchronous
        checkpoint, as a share of a step; throughput of two ranks over twice that of one, each on one core: ranks that
        share nothing (what the machine gives), replicated (DDP) and sharded (FSDP).

Everything is the engine itself (`model.engine.trainer.fit`) on made-up cases, in bfloat16. The peer of the sharded run
is the same engine on one rank. A ratio is of measurements of one round, which follow each other; its median over rounds
is printed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from model.data.casefile import Case, CaseRecord
from model.data.dataset import SampleStream, StreamConfig
from model.data.draws import AugmentConfig
from model.engine.checkpoint import Checkpoints
from model.engine.parallelize import ParallelConfig, parallelize
from model.engine.ranks import Ranks
from model.engine.trainer import FitConfig, Run, fit
from model.engine.watch import Watch
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from model.tasks.segmentation import Segmentation
from pipelines.training import allocators

WARM_UP = 5  # steps
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Job:
    folder: Path
    preset: str
    patch: Shape
    micro_batch: int
    steps: int
    world: int
    strategy: str = "auto"
    saves: bool = False
    loaders: int = 0
    apart: bool = False  # two runs of one rank each, at the same time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in allocators.SETTINGS.items()):
        command = [sys.executable, "-m", "benchmarks.engine", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **allocators.SETTINGS, "OMP_NUM_THREADS": "1"})
    print(f"| {arguments.preset}, patches | engine | engine, patches made in the rank | stall | apart | DDP | FSDP |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for patch, micro_batch in (((64, 64, 64), 2), ((40, 56, 40), 1)):
        job = Job(Path(), arguments.preset, patch, micro_batch, arguments.steps, world=1)
        rounds = [one_round(job) for _ in range(arguments.rounds)]
        cells = [f"{median(values):.1%}" for values in zip(*rounds, strict=True)]
        print("| " + " | ".join([f"{micro_batch} x {' x '.join(map(str, patch))}", *cells]) + " |", flush=True)


def one_round(job: Job) -> list[float]:
    one = measure(job)
    fed = measure(replace(job, loaders=1))
    saving = measure(replace(job, saves=True))
    apart = measure(replace(job, apart=True))
    both = [measure(replace(job, world=2, strategy=strategy)) for strategy in ("ddp", "fsdp")]
    return [
        fed["engine"] / fed["step"],
        one["engine"] / one["step"],
        saving["stall"] / saving["step"],
        *(one["step"] / each["step"] for each in (apart, *both)),
    ]


def measure(job: Job) -> dict[str, float]:
    """Medians over the steps of rank 0, in seconds: a whole step, the engine's part of it, a checkpoint's stall."""
    with tempfile.TemporaryDirectory() as scratch:
        job = replace(job, folder=Path(scratch))
        mp.start_processes(_work, (job,), nprocs=2 if job.apart else job.world, start_method="spawn")
        folder = job.folder / "0" if job.apart else job.folder
        return torch.load(folder / "times.pt", weights_only=True)


def _work(rank: int, job: Job) -> None:
    torch.set_num_threads(1)
    if not job.loaders:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    if job.apart:
        job, rank = replace(job, folder=job.folder / str(rank)), 0
        job.folder.mkdir()
    dist.init_process_group("gloo", f"file://{job.folder / 'meeting'}", rank=rank, world_size=job.world)
    groups = [dist.new_group(backend="gloo") if job.world > 1 else None for _ in range(2)]
    ranks = Ranks(rank, job.world, torch.device("cpu"), job.world, job.loaders, *groups)
    with torch.device("meta"):
        network = MedSegFormer(PRESETS[job.preset], num_classes=3)
    parallel = parallelize(network, ParallelConfig(job.strategy), ranks, "bfloat16")
    clock = Clock()
    parallel.called.register_forward_pre_hook(lambda *_: clock.start())
    task = Segmentation(stream(job).config)
    Segmentation.loss = clock.until_loss(Segmentation.loss)  # type: ignore[method-assign]
    torch.Tensor.backward = clock.adding(torch.Tensor.backward)  # type: ignore[method-assign]
    torch.optim.AdamW.step = clock.adding(torch.optim.AdamW.step)  # type: ignore[method-assign]
    checkpoints = TimedCheckpoints(job.folder / "run", ranks, every_s=0.5 if job.saves else 1e9)
    watch = TimedWatch(job.folder / "run", rank, clock)
    fit(Run(parallel, task, stream(job), [], fit_config(job), ranks, lambda *_: None, checkpoints, watch))
    if rank == 0:
        result = {
            "step": median(clock.steps[WARM_UP:]),
            "engine": median(clock.rest[WARM_UP:]),
            "stall": median(checkpoints.stalls[1:] or [0.0]),
        }
        torch.save(result, job.folder / "times.pt")
    dist.destroy_process_group()


class Clock:
    """Adds up the arithmetic of a step (forward with loss, backward, optimizer); what is left is the engine's."""

    def __init__(self) -> None:
        self.own = self.started = 0.0
        self.last = time.perf_counter()
        self.steps: list[float] = []
        self.rest: list[float] = []

    def start(self) -> None:
        self.started = time.perf_counter()

    def until_loss(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self.own += time.perf_counter() - self.started
            return result

        return timed

    def adding(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.own += time.perf_counter() - start
            return result

        return timed

    def step_done(self) -> None:
        now = time.perf_counter()
        self.steps.append(now - self.last)
        self.rest.append(now - self.last - self.own)
        self.last, self.own = now, 0.0


class TimedWatch(Watch):
    def __init__(self, folder: Path, rank: int, clock: Clock) -> None:
        super().__init__(folder, rank)
        self.clock = clock

    def beat(self) -> None:
        super().beat()
        self.clock.step_done()


class TimedCheckpoints(Checkpoints):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stalls: list[float] = []

    def save(self, *args: Any, **kwargs: Any) -> float:
        self.stalls.append(super().save(*args, **kwargs))
        return self.stalls[-1]


def stream(job: Job) -> SampleStream:
    config = StreamConfig(
        classes=("anterior", "posterior"),
        structures={"anterior": 1, "posterior": 2},
        patch_size={"made-up": job.patch},
        micro_batch=job.micro_batch,
        seed=0,
        foreground_fraction=0.5,
        source_balance=0.0,
        augment=AugmentConfig(),
    )
    rng = np.random.default_rng(0)
    shape = tuple(size + 8 for size in job.patch)
    label = np.zeros(shape, np.uint8)
    label[8:-8, 8:-8, 8:24], label[8:-8, 8:-8, 24:-8] = 1, 2
    image = rng.standard_normal((1, *shape)).astype(np.float16)
    points = np.argwhere(label > 0)[::50]
    foreground = np.column_stack([label[tuple(points.T)], points]).astype(np.int32)
    record = CaseRecord("a", "made-up", "train", ("T1",), ("anterior", "posterior"), (1.0, 1.0, 1.0), {})
    return SampleStream([Case(record, image, label, foreground)], config)


def fit_config(job: Job) -> FitConfig:
    """Every rank sees `micro_batch` patches a step, so perfect scaling doubles the patches in the same time."""
    return FitConfig(
        steps=job.steps + WARM_UP, global_batch=job.micro_batch * job.world,
        optimizer="adamw", learning_rate=1e-4, final_learning_rate=1e-5, schedule="cosine", warmup_steps=1, beta2=0.99,
        weight_decay=0.02, clip_norm=3.0, precision="bfloat16",
        average_decay=0.995, validate_every=10**9,
    )  # fmt: skip


if __name__ == "__main__":
    main()
