"""Everything that resuming needs: weights, optimizer, running average, loss scale, step and the curve so far.

No random state: which patch comes next, and what is drawn inside the network, follows from the seed and the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from model.engine.dtensors import assemble_like, plain_name
from model.engine.muon import Muon
from model.engine.optim import AdamW, LossScale, WeightAverage


@dataclass
class TrainState:
    """`network` is the one inside DDP's wrapper. `step` counts optimizer steps done; `skipped`: those of them whose
    gradient was not finite."""

    network: nn.Module
    optimizers: list[torch.optim.Optimizer]  # AdamW, and Muon if it has the matrices
    average: WeightAverage | None
    scale: LossScale
    step: int = 0
    skipped: list[int] = field(default_factory=list)
    suspects: dict[str, int] = field(default_factory=dict)  # case id -> skipped steps that it was part of
    curve: list[dict[str, float]] = field(default_factory=list)  # validation, a point each

    def __post_init__(self) -> None:
        self.parameters = list(self.network.parameters())  # a walk through all modules is worth keeping
        self._owner = {parameter: optimizer for optimizer in self.optimizers for parameter in _parameters_of(optimizer)}

    def tensors(self) -> dict[str, Tensor]:
        """By name, sharded as they are, sharing memory with the run: loading into them is loading the run."""
        by_name: dict[str, Tensor] = {}
        for name, parameter in self.network.named_parameters():
            moments = self._moments(parameter)
            by_name[f"network.{plain_name(name)}"] = parameter.data
            for key, moment in (("exp_avg", "first_moment"), ("exp_avg_sq", "second_moment")):
                if key in moments:
                    by_name[f"{moment}.{plain_name(name)}"] = assemble_like(moments[key], parameter)
            if self.average:
                by_name[f"average.{plain_name(name)}"] = self.average.average[name]
        return by_name

    def numbers(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "updates": next(
                (int(moments["step"]) for p in self.parameters if "step" in (moments := self._moments(p))), 0
            ),
            "average_updates": self.average.updates if self.average else 0,
            "loss_scale": self.scale.value,
            "loss_scale_good_steps": self.scale.good_steps,
            "skipped": self.skipped,
            "suspects": self.suspects,
            "curve": self.curve,
        }

    def load_numbers(self, numbers: dict[str, Any]) -> None:
        self.step = numbers["step"]
        self.skipped, self.suspects, self.curve = numbers["skipped"], numbers["suspects"], numbers["curve"]
        self.scale.value, self.scale.good_steps = numbers["loss_scale"], numbers["loss_scale_good_steps"]
        if self.average:
            self.average.updates = numbers["average_updates"]
        for parameter in self.parameters:
            if "step" in (moments := self._moments(parameter)):
                moments["step"].fill_(numbers["updates"])

    def skip(self, suspects: Iterable[str]) -> None:
        """Note that this step's gradient was not finite, and the cases that may be why."""
        self.skipped.append(self.step)
        for case in suspects:
            self.suspects[case] = self.suspects.get(case, 0) + 1

    def final_weights(self) -> dict[str, Tensor]:
        """What is released: the running average if there is one."""
        if self.average:
            return {plain_name(name): tensor for name, tensor in self.average.average.items()}
        return {plain_name(name): parameter.data for name, parameter in self.network.named_parameters()}

    def best(self, score: str) -> float:
        """The highest so far; points without a score (NaN) do not count."""
        return max((point[score] for point in self.curve if not math.isnan(point[score])), default=float("-inf"))

    def _moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The optimizer's state of one parameter, as it would make it at its first step; none of a frozen one."""
        owner = self._owner.get(parameter)
        if owner is None:
            return {}
        known = owner.shards[parameter] if isinstance(owner, AdamW) else parameter
        if not owner.state[known]:
            kept = ("exp_avg",) if isinstance(owner, Muon) else ("exp_avg", "exp_avg_sq")
            owner.state[known] = {name: torch.zeros_like(known, memory_format=torch.preserve_format) for name in kept}
            if not isinstance(owner, Muon):
                owner.state[known]["step"] = torch.zeros((), device=parameter.device)
        return owner.state[known]


def _parameters_of(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    if isinstance(optimizer, AdamW):
        return optimizer.shards
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
