"""The training loop: `fit` on one screen, a step in reading order.

One optimiser step sees `global_batch` patches on any number of ranks: every rank accumulates its share of
micro-batches, then gradients are summed over the ranks once. Each sample's loss is divided by the global batch, so the
sum is exactly the gradient of one big batch.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.casefile import Case
from model.dataset import Batch, SampleStream, loader, validation_batches
from model.losses import deep_supervision
from model.metrics import dice, mean
from model.optim import WeightAverage, adamw, global_norm, learning_rate

log = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_SKIPPED_IN_A_ROW = 20  # a loss scale settles within about 16 halvings; beyond that the run is broken
REPORT_EVERY_S = 5.0


@dataclass(frozen=True)
class FitConfig:
    """As params.yaml's `train` has them."""

    steps: int
    global_batch: int
    micro_batch: int
    learning_rate: float
    final_learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    precision: str
    average_decay: float
    validate_every: int


@dataclass(frozen=True)
class Ranks:
    """This process among all: `world` 1 is the same code."""

    rank: int
    world: int
    device: torch.device
    loader_workers: int = 0


Report = Callable[[int, dict[str, float]], None]


def fit(
    network: nn.Module,
    stream: SampleStream,
    validation: Sequence[Case],
    config: FitConfig,
    ranks: Ranks,
    report: Report,
) -> WeightAverage | None:
    """Train in place; returns the averaged weights if `average_decay` is set. `report(step, values)` on rank 0 only."""
    accumulation = micro_steps(config, ranks.world)
    batches = iter(loader(stream, micro_batches(config.steps, accumulation, ranks), ranks.loader_workers))
    optimizer = adamw(network, config.learning_rate, config.weight_decay)
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "float16")
    average = WeightAverage(network, config.average_decay) if config.average_decay else None
    progress = Progress(config, report if ranks.rank == 0 else _silent)
    network.train()
    for step in range(config.steps):
        set_learning_rate(optimizer, rate := _rate(step, config))
        loss = accumulate(network, batches, accumulation, config, ranks, scaler)
        norm = update(network, optimizer, scaler, config.clip_norm)
        progress.step_done(step, loss, norm, rate)
        if average and norm is not None:
            average.update(network)
        if ranks.rank == 0 and validation and _is_due(step, config):
            report(step + 1, validate(network, average, validation, stream, config, ranks.device))
    return average


def accumulate(
    network: nn.Module,
    batches: Iterator[Batch],
    accumulation: int,
    config: FitConfig,
    ranks: Ranks,
    scaler: torch.amp.GradScaler,
) -> float:
    """Forward and backward of this rank's micro-batches, then one sum over ranks. Returns the global batch's loss."""
    total = torch.zeros((), device=ranks.device)
    for _ in range(accumulation):
        batch = next(batches).to(ranks.device)
        with autocast(ranks.device, config.precision):
            outputs = network(batch.image, batch.modality, batch.spacing_mm, auxiliary=True)
        loss = deep_supervision(outputs, batch.target, batch.annotated).sum() / config.global_batch
        scaler.scale(loss).backward()
        total += loss.detach()
    if ranks.world > 1:
        _sum_over_ranks([p.grad for p in network.parameters() if p.grad is not None], total)
    return float(total)


def update(
    network: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clip_norm: float
) -> float | None:
    """Clip and step; the norm. A gradient that is not finite skips the step (None): clipped, it would still poison."""
    scaler.unscale_(optimizer)
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm = float(global_norm(gradients))
    finite = norm < float("inf")  # False for NaN too
    if finite:
        torch._foreach_mul_(gradients, min(1.0, clip_norm / (norm + 1e-6)))
    if finite or scaler.is_enabled():  # a scaler skips by itself, and must see the overflow to lower its scale
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm if finite else None


class Progress:
    """Counts, times and reports steps; stops a run whose gradients stay non-finite."""

    def __init__(self, config: FitConfig, report: Report) -> None:
        self.config, self.report = config, report
        self.start = self.last = time.monotonic()
        self.voxels = self.skipped = self.skipped_in_a_row = 0
        self.losses: list[float] = []
        self.reported_step = 0

    def step_done(self, step: int, loss: float, norm: float | None, rate: float) -> None:
        if norm is None:
            self.skipped += 1
            self.skipped_in_a_row += 1
            log.warning("step %d: gradient is not finite, step skipped (%d so far)", step + 1, self.skipped)
            if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                raise ValueError(
                    f"{self.skipped_in_a_row} steps in a row had non-finite gradients; lower train.learning_rate "
                    "or set train.precision to float32"
                )
        else:
            self.skipped_in_a_row = 0
            self.losses.append(loss)
        now = time.monotonic()
        last_step = step + 1 == self.config.steps
        if now - self.last >= REPORT_EVERY_S or last_step:
            self._report(step, now, norm, rate)

    def _report(self, step: int, now: float, norm: float | None, rate: float) -> None:
        steps = step + 1 - self.reported_step
        values = {
            "loss": mean(self.losses),
            "learning_rate": rate,
            "gradient_norm": float("nan") if norm is None else norm,
            "patches_per_s": steps * self.config.global_batch / max(1e-9, now - self.last),
            "skipped_steps": float(self.skipped),
            "seconds_left": (now - self.start) / (step + 1) * (self.config.steps - step - 1),
        }
        self.report(step + 1, values)
        self.last, self.losses, self.reported_step = now, [], step + 1


@torch.inference_mode()
def validate(
    network: nn.Module,
    average: WeightAverage | None,
    cases: Sequence[Case],
    stream: SampleStream,
    config: FitConfig,
    device: torch.device,
) -> dict[str, float]:
    """Dice by structure over one patch of each validation case: a curve to watch, not the held-out result."""
    trained = {name: tensor.clone() for name, tensor in network.state_dict().items()} if average else {}
    if average:
        average.copy_to(network)
    network.eval()
    names = {identifier: name for name, identifier in stream.config.structures.items()}
    scores: dict[str, list[float]] = {}
    for batch in validation_batches(cases, stream.config):
        moved = batch.to(device)
        with autocast(device, config.precision):
            logits = network(moved.image, moved.modality, moved.spacing_mm)
        allowed = moved.annotated[:, :, None, None, None]
        predicted = logits.float().masked_fill(~allowed, float("-inf")).argmax(1).cpu().numpy()
        for index, identifier in enumerate(stream.config.classes, start=1):
            if batch.annotated[0, index]:
                score = dice((batch.target == index).numpy(), predicted == index)
                scores.setdefault(f"validation_dice.{names[identifier]}", []).append(score)
    network.train()
    if average:
        network.load_state_dict(trained)
    means = {name: mean(values) for name, values in scores.items()}
    return {**means, "validation_dice.mean": mean(list(means.values()))}


def micro_steps(config: FitConfig, world: int) -> int:
    """Micro-batches a rank accumulates per step. Raises ValueError if ranks cannot share the global batch evenly."""
    share = config.micro_batch * world
    if config.global_batch % share:
        raise ValueError(
            f"train.global_batch {config.global_batch} cannot be shared by {world} ranks of train.micro_batch "
            f"{config.micro_batch}; it must be a multiple of {share}, or start fewer ranks (MEDSEG_RANKS)"
        )
    return config.global_batch // share


def micro_batches(steps: int, accumulation: int, ranks: Ranks) -> range:
    """The micro-batch numbers of this rank: every `world`-th, in order."""
    return range(ranks.rank, steps * accumulation * ranks.world, ranks.world)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    return nullcontext() if precision == "float32" else torch.autocast(device.type, PRECISIONS[precision])


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _rate(step: int, config: FitConfig) -> float:
    return learning_rate(step, config.steps, config.warmup_steps, config.learning_rate, config.final_learning_rate)


def _is_due(step: int, config: FitConfig) -> bool:
    return (step + 1) % config.validate_every == 0 or step + 1 == config.steps


def _sum_over_ranks(gradients: list[Tensor], total: Tensor) -> None:
    """Sum gradients and loss over all ranks in one message."""
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), total.flatten()])
    dist.all_reduce(flat)
    offset = 0
    for tensor in (*gradients, total):
        tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
        offset += tensor.numel()


def _silent(_step: int, _values: dict[str, float]) -> None:
    """Ranks other than 0 report nothing."""
