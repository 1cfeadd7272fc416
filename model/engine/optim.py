"""The optimizers, their schedule, the loss scale of FP16, the running average of the weights; all work on shards.

A sharded parameter is a DTensor. What is said here of every element is done on the shard that this rank holds
(`local`), in a few fused calls: dispatching some hundred DTensors one by one would cost more than the arithmetic.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.engine.dtensors import is_sharded, local_part, plain_name
from model.engine.muon import Muon, matrices

STAGE = re.compile(r"encoder\.stages\.(\d+)\.(?:blocks\.(\d+))?")
LAST = 10**6  # the decoder, after every stage


def optimizers(
    network: nn.Module,
    kind: str,
    learning_rate: float,
    beta2: float,
    weight_decay: float,
    layer_decay: float = 1.0,
) -> list[torch.optim.Optimizer]:
    """`adamw`: one for all parameters. `muon`: Muon for the weight matrices, AdamW for the rest.

    Every group has a `scale` of the learning rate: 1, or less towards the input with a `layer_decay` below 1.
    """
    scales = layer_scales(network, layer_decay)
    weights = matrices(network) if kind == "muon" else []
    taken = {parameter for parameter, _ in weights}
    rest = {parameter: scale for parameter, scale in scales.items() if parameter not in taken}
    used: list[torch.optim.Optimizer] = [AdamW(rest, learning_rate, beta2, weight_decay)]
    return [*used, Muon(weights, scales, learning_rate, weight_decay)] if weights else used


def layer_scales(network: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Layer-wise decay of the learning rate (Clark et al. 2020): `decay` times less for each layer nearer to the input.

    The embedding is the first layer, each block of the encoder is one, and all of the decoder is the last.
    """
    layers: list[tuple[nn.Parameter, tuple[int, int]]] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            layers.append((parameter, _layer(plain_name(name))))
    order = {layer: number for number, layer in enumerate(sorted({layer for _, layer in layers}))}
    return {parameter: decay ** (len(order) - 1 - order[layer]) for parameter, layer in layers}


def _layer(name: str) -> tuple[int, int]:
    """Sorts as the layers follow each other; what is beside the blocks of a stage belongs to its first."""
    if name.startswith("embedding."):
        return (-1, 0)
    if place := STAGE.match(name):
        return (int(place[1]), int(place[2] or 0))
    return (LAST, 0)


class AdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019) on this rank's shards; no decay on biases, norms and other vectors.

    `scales`: the parameters, with the share of the learning rate that each gets. `shards`: what the optimizer knows of
    each, sharing its memory; its state is as large.
    """

    def __init__(
        self, scales: Mapping[nn.Parameter, float], learning_rate: float, beta2: float, weight_decay: float
    ) -> None:
        self.shards = {parameter: local_part(parameter.data) for parameter in scales}
        groups: dict[tuple[float, bool], list[Tensor]] = {}
        for parameter, scale in scales.items():
            groups.setdefault((scale, parameter.ndim > 1), []).append(self.shards[parameter])
        super().__init__(
            [
                {"params": members, "weight_decay": weight_decay if is_matrix else 0.0, "scale": scale}
                for (scale, is_matrix), members in groups.items()
            ],
            lr=learning_rate,
            betas=(0.9, beta2),
            fused=True,
        )

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter, shard in self.shards.items():
            shard.grad = None if parameter.grad is None else local_part(parameter.grad)
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
        self._averaged = [local_part(tensor) for tensor in self.average.values()]
        self._trained = [local_part(parameter.data) for parameter in network.parameters()]

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


def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients as one vector, equal on every rank; not finite if any element on any rank is not."""
    gradients = list(gradients)
    norms = torch._foreach_norm([local_part(gradient) for gradient in gradients])
    square = torch.stack(norms).square().sum()
    sharded = next((gradient for gradient in gradients if is_sharded(gradient)), None)
    if sharded is not None:  # the last dimension of the mesh shards, an earlier one replicates
        mesh = sharded.device_mesh
        dist.all_reduce(square, group=mesh.get_group(mesh.ndim - 1))
    return square.sqrt()
