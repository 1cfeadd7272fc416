"""The training loop: `fit` on one screen, a step in reading order. What is learnt is the task's (model/tasks/).

One optimizer step sees `global_batch` patches on any number of ranks: every rank accumulates its share of
micro-batches, and gradients cross the network once. Each sample's loss is divided by the global batch, so the sum is
exactly the gradient of one big batch, whatever its samples annotate.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from model.data.casefile import Case
from model.data.dataset import Batch, SampleStream, loader
from model.data.draws import Purpose, torch_seed
from model.engine.dtensors import local_part
from model.engine.optim import LossScale, WeightAverage, global_norm, learning_rate, optimizers
from model.engine.parallelize import ParallelNetwork, autocast, compiling, reshard
from model.engine.progress import Feed, Report, TrainingProgress, peak_flops
from model.engine.ranks import Ranks, gather_from_ranks, sum_over_ranks
from model.engine.state import TrainState
from model.engine.task import TrainingTask
from model.engine.watch import Watch
from model.metrics.overlap import mean

if TYPE_CHECKING:
    from model.engine.checkpoint import Checkpoints

log = logging.getLogger(__name__)

WINDOW = 100  # steps
MAX_SKIPPED = 20  # within the window. A loss scale settles within about 16 halvings; beyond that the run is broken


@dataclass(frozen=True)
class FitConfig:
    """As params.yaml's `train` and `pretrain` have them; what concerns patches is in StreamConfig."""

    steps: int
    global_batch: int
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
    export: str = "last"  # or "best": the checkpoint that validated best is kept for it


@dataclass(frozen=True)
class Run:
    """Everything that training needs, on each rank. `report(step, values)` is called on rank 0 only."""

    parallel: ParallelNetwork
    task: TrainingTask
    stream: SampleStream
    validation: Sequence[Case]
    config: FitConfig
    ranks: Ranks
    report: Report
    checkpoints: "Checkpoints"
    watch: Watch

    @property
    def accumulation(self) -> int:
        """Micro-batches that a rank accumulates in a step."""
        return micro_steps(self.config.global_batch, self.stream.config.micro_batch, self.ranks.world)

    @cached_property
    def loss(self) -> Callable[[Any, Batch], Tensor]:
        """The task's, compiled if the network is: of its many passes over all voxels, few are left."""
        return torch.compile(self.task.loss, **compiling()) if self.parallel.compiled else self.task.loss


@dataclass(frozen=True)
class StepResult:
    """`loss`: this rank's part of the global batch's. `suspects`: the cases of its samples that were not finite."""

    loss: float
    suspects: tuple[str, ...]


@dataclass(frozen=True)
class Agreement:
    """What all ranks know after a step: the global batch's loss, and what any of them was asked for."""

    loss: float
    stop: bool
    save: bool
    profile: bool


def fit(run: Run) -> TrainState:
    """Train in place, from the newest checkpoint if there is one.

    Returns before the last step if it was asked to stop; everything is saved then (`state.step < config.steps`).
    """
    if run.ranks.rank != 0:
        run = replace(run, report=_silent)
    config, ranks = run.config, run.ranks
    state = new_state(run.parallel.network, config)
    run.checkpoints.restore(state)
    feed = new_feed(run, state.step)
    peak = peak_flops(ranks.device, config.precision)
    progress = TrainingProgress(state, config.steps, ranks.world, feed, peak, run.report)
    run.parallel.called.train()
    if run.task.scored_before and state.step == 0:
        validate(run, state)
    with run.watch.watching():
        stop = False
        while state.step < config.steps and not stop:
            stop = train_step(run, state, feed, progress)
        run.checkpoints.wait()
    return state


def train_step(run: Run, state: TrainState, feed: Iterator[Batch], progress: TrainingProgress) -> bool:
    """An optimizer step and all that follows it; True if any rank was asked to stop."""
    rate = set_learning_rate(state, run.config)
    result = accumulate(run, state, feed)
    agreement = agree(run, result.loss)
    norm = update(state, run.config.clip_norm)
    state.step += 1
    if norm is None:
        skip(state, {case for suspects in gather_from_ranks(result.suspects, run.ranks) for case in suspects})
    progress.step_done(state, agreement.loss, norm, rate)
    best = _is_due(state.step, run.config) and validate(run, state) and run.config.export == "best"
    if best or agreement.save or agreement.stop:
        progress.stalled_s += run.checkpoints.save(state, best)
    run.watch.profile_step(agreement.profile, state.step)
    run.watch.beat()
    return agreement.stop


def new_state(network: nn.Module, config: FitConfig) -> TrainState:
    made = optimizers(
        network, config.optimizer, config.learning_rate, config.beta2, config.weight_decay, config.layer_decay
    )
    average = WeightAverage(network, config.average_decay) if config.average_decay else None
    return TrainState(network, made, average, LossScale(config.precision == "float16"))


def new_feed(run: Run, first_step: int) -> Feed:
    indices = micro_batches(first_step, run.config.steps, run.accumulation, run.ranks)
    batches = loader(run.stream, indices, run.ranks.loader_workers, run.ranks.device)
    return Feed(batches, run.parallel.network, run.task)


def accumulate(run: Run, state: TrainState, feed: Iterator[Batch]) -> StepResult:
    """Forward and backward of this rank's micro-batches; gradients cross the network with the last of them."""
    config = run.config
    # The ranks' gradients are averaged, where one big batch would sum them.
    weight = state.scale.value * run.ranks.world / config.global_batch
    cases: list[str] = []
    losses: list[Tensor] = []
    accumulation = run.accumulation
    for micro_step in range(accumulation):
        batch = next(feed)
        run.parallel.sync_gradients(now=micro_step == accumulation - 1)
        # Stochastic depth, too, follows from the index.
        torch.manual_seed(torch_seed(run.stream.config.seed, batch.index, Purpose.DROP))
        with autocast(run.ranks.device, config.precision):
            outputs = run.task.forward(run.parallel.called, batch)
        loss_B = run.loss(outputs, batch)
        (loss_B.sum() * weight).backward()
        cases += batch.cases
        losses.append(loss_B.detach())
    values = torch.cat(losses).tolist()  # the one wait for the device
    suspects = tuple(case for case, value in zip(cases, values, strict=True) if not math.isfinite(value))
    return StepResult(sum(values) / config.global_batch, suspects)


def agree(run: Run, loss: float) -> Agreement:
    said = [loss, run.watch.stop, run.checkpoints.due(), run.watch.profile]
    loss, stop, save, profile = sum_over_ranks(torch.tensor(said, dtype=torch.float64), run.ranks).tolist()
    return Agreement(loss, stop > 0, save > 0, profile > 0)


def update(state: TrainState, clip_norm: float) -> float | None:
    """Clip and step; the norm. A gradient that is not finite skips the step (None): clipped, it would still poison."""
    gradients = [parameter.grad for parameter in state.parameters if parameter.grad is not None]
    norm = float(global_norm(gradients)) / state.scale.value
    finite = norm < float("inf")  # False for NaN too
    if finite:
        factor = min(1.0, clip_norm / (norm + 1e-6)) / state.scale.value
        if factor != 1.0:
            torch._foreach_mul_([local_part(gradient) for gradient in gradients], factor)
        for optimizer in state.optimizers:
            optimizer.step()
        if state.average:
            state.average.update()
    state.scale.update(finite)
    for parameter in state.parameters:
        parameter.grad = None
    return norm if finite else None


def skip(state: TrainState, suspects: Iterable[str]) -> None:
    """Note a step whose gradient was not finite, and the cases that may be why. ValueError if there are too many."""
    state.skip(suspects)
    worst = sorted(state.suspects.items(), key=lambda item: -item[1])[:5]
    named = ", ".join(f"{case} ({count} times)" for case, count in worst)
    blame = f"cases in them: {named}. Look at these cases; if they are sound," if worst else "no case stands out:"
    recent = sum(step > state.step - WINDOW for step in state.skipped)
    log.warning(
        "step %d: loss or gradient is not finite, step skipped (%d so far)%s",
        state.step, len(state.skipped), f"; cases so far: {named}" if worst else "",
    )  # fmt: skip
    if recent > MAX_SKIPPED:
        raise ValueError(
            f"{recent} of the last {WINDOW} steps had a loss or gradient that is not finite, more than {MAX_SKIPPED}; "
            f"{blame} lower train.learning_rate or set train.precision to float32"
        )


@torch.no_grad()
def validate(run: Run, state: TrainState) -> bool:
    """The task's scores, a point of the curve. True if it is the best so far."""
    if state.average:
        state.average.swap()
    run.parallel.called.eval()
    by_case = run.task.score(run.parallel.network, run.validation, run.ranks, run.config.precision)
    reshard(run.parallel.network)
    run.parallel.called.train()
    if state.average:
        state.average.swap()
    if not by_case:
        return False
    point = _means(by_case)
    best = point[run.task.decides] > state.best(run.task.decides)
    state.curve.append({"step": state.step, **point})
    run.report(state.step, point)
    return best


def _means(by_case: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each score over the cases that have it; and of each kind of score, as KIND.mean, over what it is of."""
    names = dict.fromkeys(name for scores in by_case for name in scores)
    point = {name: mean([scores[name] for scores in by_case if name in scores]) for name in names}
    for kind in dict.fromkeys(name.partition(".")[0] for name in names):
        point[f"{kind}.mean"] = mean([value for name, value in point.items() if name.startswith(f"{kind}.")])
    return point


def micro_steps(global_batch: int, micro_batch: int, world: int) -> int:
    """Micro-batches a rank accumulates per step. Raises ValueError if ranks cannot share the global batch evenly."""
    share = micro_batch * world
    if global_batch % share:
        raise ValueError(
            f"global_batch {global_batch} cannot be shared by {world} ranks of micro_batch {micro_batch}; it must be a "
            f"multiple of {share}, or start fewer ranks (MEDSEG_RANKS)"
        )
    return global_batch // share


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


def _is_due(step: int, config: FitConfig) -> bool:
    return step % config.validate_every == 0 or step == config.steps


def _silent(_step: int, _values: dict[str, float]) -> None:
    """Ranks other than 0 report nothing."""
