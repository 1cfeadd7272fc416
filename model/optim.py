"""The optimizers, their schedule, the loss scale of FP16, the running average of the weights; all work on shards.

A sharded parameter is a DTensor. What is said here of every element is done on the shard that this rank holds
(`local`), in a few fused calls: dispatching some hundred DTensors one by one would cost more than the arithmetic.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from model.muon import Muon, matrices


def optimizers(
    network: nn.Module, kind: str, learning_rate: float, beta2: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """`adamw`: one for all parameters. `muon`: Muon for the weight matrices, AdamW for the rest."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if kind == "adamw":
        return [AdamW(trained, learning_rate, beta2, weight_decay)]
    weights = matrices(network)
    taken = {id(parameter) for parameter, _ in weights}
    rest = [parameter for parameter in trained if id(parameter) not in taken]
    return [AdamW(rest, learning_rate, beta2, weight_decay), Muon(weights, learning_rate, weight_decay)]


class AdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019) on this rank's shards; no decay on biases, norms and other vectors.

    `shards`: what the optimizer knows of each parameter, sharing its memory; its state is as large.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], learning_rate: float, beta2: float, weight_decay: float
    ) -> None:
        self.shards = {parameter: local(parameter.data) for parameter in parameters}
        groups = [
            {"params": [self.shards[p] for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [self.shards[p] for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        super().__init__(groups, lr=learning_rate, betas=(0.9, beta2), fused=True)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter, shard in self.shards.items():
            shard.grad = None if parameter.grad is None else local(parameter.grad)
        super().step()
        for shard in self.shards.values():
            shard.grad = None


def learning_rate(step: int, steps: int, warmup_steps: int, peak: float, final: float, schedule: str) -> float:
    """Linear warm-up to `peak`, then down to `final`, which is reached at the last step. `step` counts from 0.

    `cosine`: half a cosine. `trapezoid`: constant up to the middle, then linear (Haegele et al. 2024).
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
    if schedule == "cosine":
        return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * progress))
    return final + (peak - final) * min(1.0, 2 * (1 - progress))


class LossScale:
    """Dynamic loss scaling (Micikevicius et al. 2018): halved by an overflow, doubled after many steps without one.

    The norm of all gradients, which every rank knows, is finite or not for all of them alike. So the ranks of a sharded
    run decide together without a message of their own, which `torch.amp.GradScaler` would need. Off, the scale is 1.
    """

    GROW_EVERY = 2000
    LARGEST = 2.0**24

    def __init__(self, enabled: bool, initial: float = 2.0**16) -> None:
        self.enabled = enabled
        self.value = initial if enabled else 1.0
        self.good_steps = 0

    def update(self, finite: bool) -> None:
        if not self.enabled:
            return
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / 2)
        elif self.good_steps % self.GROW_EVERY == 0:
            self.value = min(self.LARGEST, self.value * 2)


class WeightAverage:
    """Exponential moving average of the weights (Polyak and Juditsky 1992), with the start-up bias ramped out."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        self._averaged = [local(each) for each in self.average.values()]
        self._trained = [local(each.data) for each in network.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._averaged, self._trained, 1 - keep)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their average; a second call brings both back, to the bit."""
        for averaged, trained in zip(self._averaged, self._trained, strict=True):
            kept = averaged.clone()
            averaged.copy_(trained)
            trained.copy_(kept)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds; the tensor itself if it is not sharded. Shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(shard: Tensor, parameter: Tensor) -> Tensor:
    """What this rank holds of a tensor, as the whole that it is a shard of; shares its memory."""
    if not isinstance(parameter, DTensor) or isinstance(shard, DTensor):
        return shard
    mesh, placements, shape = parameter.device_mesh, parameter.placements, parameter.shape
    return DTensor.from_local(shard, mesh, placements, run_check=False, shape=shape, stride=parameter.stride())


def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients as one vector, equal on every rank; not finite if any element on any rank is not."""
    gradients = list(gradients)
    norms = torch._foreach_norm([local(gradient) for gradient in gradients])
    square = torch.stack(norms).square().sum()
    sharded = next((gradient for gradient in gradients if isinstance(gradient, DTensor)), None)
    if sharded is not None:  # the last dimension of the mesh shards, an earlier one replicates
        mesh = sharded.device_mesh
        dist.all_reduce(square, group=mesh.get_group(mesh.ndim - 1))
    return square.sqrt()
