"""The training loop: `fit` on one screen, a step in reading order. What is learnt is the task's (model/tasks/).

One optimizer step sees `global_batch` patches on any number of ranks: every rank accumulates its share of
micro-batches, and gradients cross the network once. Each sample's loss is divided by the global batch, so the sum is
exactly the gradient of one big batch, whatever its samples annotate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from model.data.casefile import Case
from model.data.dataset import SampleStream, loader
from model.engine.checkpoint import Checkpoints
from model.engine.optim import LossScale, WeightAverage, global_norm, learning_rate, optimizers
from model.engine.parallelize import Ranks, autocast, bare, gather, reshard, sync_gradients
from model.engine.progress import Feed, Progress, Report, peak_flops, skip
from model.engine.shards import local
from model.engine.state import TrainState
from model.engine.watch import Watch
from model.metrics import mean
from model.tasks.segmentation import Task


@dataclass(frozen=True)
class FitConfig:
    """As params.yaml's `train` and `pretrain` have them."""

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
    layer_decay: float = 1.0


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
    task: Task,
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
    feed = new_feed(network, task, stream, micro_batches(state.step, config.steps, accumulation, ranks), ranks)
    report = report if ranks.rank == 0 else _silent
    progress = Progress(state, config.steps, ranks.world, feed, peak_flops(ranks.device, config.precision), report)
    network.train()
    if task.scored_before and state.step == 0:
        validate(network, state, task, validation, config, ranks, report)
    with watch.watching():
        while state.step < config.steps:
            rate = set_learning_rate(state, config)
            result = accumulate(network, state, task, feed, accumulation, config, ranks, watch, checkpoints.due())
            norm = update(state, config.clip_norm)
            state.step += 1
            if norm is None:
                skip(state, {case for own in gather(result.suspects, ranks) for case in own})
            progress.step_done(state, result.loss, norm, rate)
            best = _is_due(state.step, config) and validate(network, state, task, validation, config, ranks, report)
            if best or result.save or result.stop:
                progress.stalled_s += checkpoints.save(state, best)
            watch.profile_step(result.profile, state.step)
            watch.beat()
            if result.stop:
                break
        checkpoints.wait()
    return state


def new_state(network: nn.Module, config: FitConfig) -> TrainState:
    steppers = optimizers(
        bare(network), config.optimizer, config.learning_rate, config.beta2, config.weight_decay, config.layer_decay
    )
    average = WeightAverage(bare(network), config.average_decay) if config.average_decay else None
    return TrainState(bare(network), steppers, average, LossScale(config.precision == "float16"))


def new_feed(network: nn.Module, task: Task, stream: SampleStream, indices: range, ranks: Ranks) -> Feed:
    return Feed(loader(stream, indices, ranks.loader_workers, ranks.device), bare(network), task)


def accumulate(
    network: nn.Module,
    state: TrainState,
    task: Task,
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
            outputs = task.forward(network, batch)
        loss_B = task.loss(outputs, batch)
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
    task: Task,
    cases: Sequence[Case],
    config: FitConfig,
    ranks: Ranks,
    report: Report,
) -> bool:
    """The task's scores, a point of the curve: of each name the mean over cases. True if it is the best so far."""
    if state.average:
        state.average.swap()
    network.eval()
    by_case = task.score(bare(network), cases, ranks)
    reshard(network)
    network.train()
    if state.average:
        state.average.swap()
    if not by_case:
        return False
    names = dict.fromkeys(name for scores in by_case for name in scores)
    point = {name: mean([scores[name] for scores in by_case if name in scores]) for name in names}
    for kind in dict.fromkeys(name.partition(".")[0] for name in names):
        point[f"{kind}.mean"] = mean([value for name, value in point.items() if name.startswith(f"{kind}.")])
    best = point[task.decides] > state.best(task.decides)
    state.curve.append({"step": state.step, **point})
    report(state.step, point)
    return best


def micro_steps(config: FitConfig, world: int) -> int:
    """Micro-batches a rank accumulates per step. Raises ValueError if ranks cannot share the global batch evenly."""
    share = config.micro_batch * world
    if config.global_batch % share:
        raise ValueError(
            f"global_batch {config.global_batch} cannot be shared by {world} ranks of micro_batch "
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
            group["lr"] = rate * group["scale"]
    return rate


def _sum_over_ranks(own: Sequence[float], ranks: Ranks) -> list[float]:
    message = torch.tensor(own, dtype=torch.float64)
    if ranks.world > 1:
        dist.all_reduce(message, group=ranks.control)
    return message.tolist()


def _is_due(step: int, config: FitConfig) -> bool:
    return step % config.validate_every == 0 or step == config.steps


def _silent(_step: int, _values: dict[str, float]) -> None:
    """Ranks other than 0 report nothing."""
