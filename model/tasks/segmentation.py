"""What a network is trained to do: the forward pass, the loss, the scores of the validation curve. Segmentation, here.

The training loop knows nothing else of it; model/tasks/masked.py has the other task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.data.casefile import Case
from model.data.dataset import Batch, StreamConfig, validation_batch
from model.engine.parallelize import Ranks, autocast, each
from model.metrics import dice
from model.network.sizes import forward_flops
from model.tasks.losses import deep_supervision


class Task(Protocol):
    """`decides`: the score, larger is better, by which a checkpoint is the best. `scored_before`: also untrained."""

    @property
    def decides(self) -> str: ...
    @property
    def scored_before(self) -> bool: ...

    def forward(self, network: nn.Module, batch: Batch) -> Any:
        """The network's outputs for a batch."""

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """One loss a sample, (B,), which does not depend on the samples beside it."""

    def forward_flops(self, network: nn.Module, batch: Batch) -> int:
        """Of the whole batch."""

    def score(self, network: nn.Module, cases: Sequence[Case], ranks: Ranks) -> list[dict[str, float]]:
        """Named scores by case, on every rank; a name is KIND.WHAT. The network is in evaluation mode."""


@dataclass(frozen=True)
class Segmentation:
    """Dice and cross-entropy at three scales; scored by Dice over one patch of each validation case."""

    stream: StreamConfig
    precision: str
    decides: str = "validation_dice.mean"
    scored_before: bool = False

    def forward(self, network: nn.Module, batch: Batch) -> Any:
        return network(batch.image, batch.modality, batch.spacing_mm, auxiliary=True)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return deep_supervision(outputs, batch.target, batch.annotated)

    def forward_flops(self, network: nn.Module, batch: Batch) -> int:
        size, channels = tuple(batch.target.shape[1:]), batch.modality.shape[1]
        config: Any = network.config
        return len(batch.target) * forward_flops(config, len(self.stream.classes) + 1, size, batch.spacing_mm, channels)

    def score(self, network: nn.Module, cases: Sequence[Case], ranks: Ranks) -> list[dict[str, float]]:
        with_structures = [case for case in cases if len(case.foreground)]
        return each(partial(self._dice, network, ranks.device), with_structures, ranks)

    def _dice(self, network: nn.Module, device: torch.device, case: Case) -> dict[str, float]:
        names = {identifier: name for name, identifier in self.stream.structures.items()}
        batch = validation_batch(case, self.stream).to(device)
        with autocast(device, self.precision):
            logits = network(batch.image, batch.modality, batch.spacing_mm)
        allowed = batch.annotated[:, :, None, None, None]
        predicted = logits.float().masked_fill(~allowed, float("-inf")).argmax(1).cpu().numpy()
        target, annotated = batch.target.cpu().numpy(), batch.annotated[0].tolist()
        return {
            f"validation_dice.{names[identifier]}": dice(target == index, predicted == index)
            for index, identifier in enumerate(self.stream.classes, start=1)
            if annotated[index]
        }
