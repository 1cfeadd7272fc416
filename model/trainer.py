"""The training loop: `fit` on one screen, a step in reading order.

One optimizer step sees `global_batch` patches on any number of ranks: every rank accumulates its share of
micro-batches, and gradients cross the network once. Each sample's loss is divided by the global batch, so the sum is
exactly the gradient of one big batch, whatever its samples annotate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from model.casefile import Case
from model.checkpoint import Checkpoints
from model.dataset import SampleStream, loader, validation_batch
from model.losses import deep_supervision
from model.metrics import dice, mean
from model.optim import LossScale, WeightAverage, global_norm, learning_rate, local, optimizers
from model.parallelize import Ranks, autocast, bare, reshard, sync_gradients
from model.progress import Feed, Progress, Report, peak_flops, skip
from model.state import TrainState
from model.watch import Watch

T = TypeVar("T")


@dataclass(frozen=True)
class FitConfig:
    """As params.yaml's `train` has them."""

    seed: int
    steps: int
    global_batch: int
    micro_batch: int
    optimizer: str
    learning_rate: float
    final_learning_rate: float
    schedule: str
    warmup_steps: int
    beta2: float
    weight_decay: float
    clip_norm: float
    precision: str
    average_decay: float
    validate_every: int


@dataclass(frozen=True)
class StepResult:
    """The global batch's loss; which samples of this rank were not finite; what any rank was asked for."""

    loss: float
    suspects: tuple[str, ...]
    stop: bool
    save: bool
    profile: bool


def fit(
    network: nn.Module,
    stream: SampleStream,
    validation: Sequence[Case],
    config: FitConfig,
    ranks: Ranks,
    report: Report,
    checkpoints: Checkpoints,
    watch: Watch,
) -> TrainState:
    """Train in place, from the newest checkpoint if there is one. `report(step, values)` is called on rank 0 only.

    Returns before the last step if it was asked to stop; everything is saved then (`state.step < config.steps`).
    """
    state = new_state(network, config)
    checkpoints.restore(state)
    accumulation = micro_steps(config, ranks.world)
    feed = new_feed(network, stream, micro_batches(state.step, config.steps, accumulation, ranks), ranks)
    report = report if ranks.rank == 0 else _silent
    progress = Progress(state, config.steps, ranks.world, feed, peak_flops(ranks.device, config.precision), report)
    network.train()
    with watch.watching():
        while state.step < config.steps:
            rate = set_learning_rate(state, config)
            result = accumulate(network, state, feed, accumulation, config, ranks, watch, checkpoints.due())
            norm = update(state, config.clip_norm)
            state.step += 1
            if norm is None:
                skip(state, {case for own in gather(result.suspects, ranks) for case in own})
            progress.step_done(state, result.loss, norm, rate)
            best = _is_due(state.step, config) and validate(network, state, validation, stream, config, ranks, report)
            if best or result.save or result.stop:
                progress.stalled_s += checkpoints.save(state, best)
            watch.profile_step(result.profile, state.step)
            watch.beat()
            if result.stop:
                break
        checkpoints.wait()
    return state


def new_state(network: nn.Module, config: FitConfig) -> TrainState:
    steppers = optimizers(bare(network), config.optimizer, config.learning_rate, config.beta2, config.weight_decay)
    average = WeightAverage(bare(network), config.average_decay) if config.average_decay else None
    return TrainState(bare(network), steppers, average, LossScale(config.precision == "float16"))


def new_feed(network: nn.Module, stream: SampleStream, indices: range, ranks: Ranks) -> Feed:
    batches = loader(stream, indices, ranks.loader_workers, ranks.device)
    return Feed(batches, getattr(bare(network), "config", None), len(stream.config.classes) + 1)


def accumulate(
    network: nn.Module,
    state: TrainState,
    feed: Feed,
    accumulation: int,
    config: FitConfig,
    ranks: Ranks,
    watch: Watch,
    save_due: bool = False,
) -> StepResult:
    """Forward and backward of this rank's micro-batches; gradients cross the network with the last of them."""
    # The ranks' gradients are averaged, where one big batch would sum them.
    weight = state.scale.value * ranks.world / config.global_batch
    cases: list[str] = []
    losses: list[torch.Tensor] = []
    for micro_step in range(accumulation):
        batch = next(feed)
        sync_gradients(network, now=micro_step == accumulation - 1)
        torch.manual_seed(config.seed + batch.index)  # stochastic depth, too, follows from the index alone
        with autocast(ranks.device, config.precision):
            outputs = network(batch.image, batch.modality, batch.spacing_mm, auxiliary=True)
        loss_B = deep_supervision(outputs, batch.target, batch.annotated)
        (loss_B.sum() * weight).backward()
        cases += batch.cases
        losses.append(loss_B.detach())
    values = torch.cat(losses).tolist()  # the one wait for the device
    suspects = tuple(case for case, value in zip(cases, values, strict=True) if not math.isfinite(value))
    own = [sum(values) / config.global_batch, watch.stop, save_due, watch.profile]
    loss, stop, save, profile = _sum_over_ranks(own, ranks)
    return StepResult(loss, suspects, stop > 0, save > 0, profile > 0)


def update(state: TrainState, clip_norm: float) -> float | None:
    """Clip and step; the norm. A gradient that is not finite skips the step (None): clipped, it would still poison."""
    gradients = [parameter.grad for parameter in state.parameters if parameter.grad is not None]
    norm = float(global_norm(gradients)) / state.scale.value
    finite = norm < float("inf")  # False for NaN too
    if finite:
        factor = min(1.0, clip_norm / (norm + 1e-6)) / state.scale.value
        if factor != 1.0:
            torch._foreach_mul_([local(gradient) for gradient in gradients], factor)
        for optimizer in state.optimizers:
            optimizer.step()
        if state.average:
            state.average.update()
    state.scale.update(finite)
    for parameter in state.parameters:
        parameter.grad = None
    return norm if finite else None


@torch.no_grad()
def validate(
    network: nn.Module,
    state: TrainState,
    cases: Sequence[Case],
    stream: SampleStream,
    config: FitConfig,
    ranks: Ranks,
    report: Report,
) -> bool:
    """Dice by structure over one patch of each validation case, a point of the curve. True if it is the best so far.

    The ranks share the cases. Sharded ranks must make equally many forward passes, so some repeat one that is not
    counted.
    """
    cases = [case for case in cases if len(case.foreground)]
    if not cases:
        return False
    if state.average:
        state.average.swap()
    network.eval()
    own = {}
    for number in range(ranks.rank, -(-len(cases) // ranks.world) * ranks.world, ranks.world):
        scores = _score(bare(network), cases[number % len(cases)], stream, config, ranks)
        if number < len(cases):
            own[number] = scores
    reshard(network)
    network.train()
    if state.average:
        state.average.swap()
    by_case = {number: scores for part in gather(own, ranks) for number, scores in part.items()}
    names = dict.fromkeys(name for number in sorted(by_case) for name in by_case[number])
    point = {
        f"validation_dice.{name}": mean([by_case[n][name] for n in sorted(by_case) if name in by_case[n]])
        for name in names
    }
    point["validation_dice.mean"] = mean(list(point.values()))
    best = point["validation_dice.mean"] > state.best()
    state.curve.append({"step": state.step, **point})
    report(state.step, point)
    return best


def _score(network: nn.Module, case: Case, stream: SampleStream, config: FitConfig, ranks: Ranks) -> dict[str, float]:
    names = {identifier: name for name, identifier in stream.config.structures.items()}
    batch = validation_batch(case, stream.config).to(ranks.device)
    with autocast(ranks.device, config.precision):
        logits = network(batch.image, batch.modality, batch.spacing_mm)
    allowed = batch.annotated[:, :, None, None, None]
    predicted = logits.float().masked_fill(~allowed, float("-inf")).argmax(1).cpu().numpy()
    target, annotated = batch.target.cpu().numpy(), batch.annotated[0].tolist()
    return {
        names[identifier]: dice(target == index, predicted == index)
        for index, identifier in enumerate(stream.config.classes, start=1)
        if annotated[index]
    }


def micro_steps(config: FitConfig, world: int) -> int:
    """Micro-batches a rank accumulates per step. Raises ValueError if ranks cannot share the global batch evenly."""
    share = config.micro_batch * world
    if config.global_batch % share:
        raise ValueError(
            f"train.global_batch {config.global_batch} cannot be shared by {world} ranks of train.micro_batch "
            f"{config.micro_batch}; it must be a multiple of {share}, or start fewer ranks (MEDSEG_RANKS)"
        )
    return config.global_batch // share


def micro_batches(first_step: int, steps: int, accumulation: int, ranks: Ranks) -> range:
    """The micro-batch numbers of this rank from `first_step` on: every `world`-th, in order."""
    each_step = accumulation * ranks.world
    return range(first_step * each_step + ranks.rank, steps * each_step, ranks.world)


def set_learning_rate(state: TrainState, config: FitConfig) -> float:
    rate = learning_rate(
        state.step,
        config.steps,
        config.warmup_steps,
        config.learning_rate,
        config.final_learning_rate,
        config.schedule,
    )
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    return rate


def gather(own: T, ranks: Ranks) -> list[T]:
    """What every rank has, in their order."""
    if ranks.world == 1:
        return [own]
    everyone: list[Any] = [None] * ranks.world
    dist.all_gather_object(everyone, own, group=ranks.control)
    return everyone


def _sum_over_ranks(own: Sequence[float], ranks: Ranks) -> list[float]:
    message = torch.tensor(own, dtype=torch.float64)
    if ranks.world > 1:
        dist.all_reduce(message, group=ranks.control)
    return message.tolist()


def _is_due(step: int, config: FitConfig) -> bool:
    return step % config.validate_every == 0 or step == config.steps


def _silent(_step: int, _values: dict[str, float]) -> None:
    """Ranks other than 0 report nothing."""
