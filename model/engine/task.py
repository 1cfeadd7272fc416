"""What a network is trained to do: the forward pass, the loss, the scores of the validation curve.

The training loop knows nothing else of it. The tasks themselves are in model/tasks/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from model.data.casefile import Case
from model.data.dataset import Batch
from model.engine.ranks import Ranks


class TrainingTask(Protocol):
    """`decides`: the score, larger is better, by which a checkpoint is the best. `scored_before`: also untrained."""

    @property
    def decides(self) -> str: ...
    @property
    def scored_before(self) -> bool: ...

    def forward(self, network: nn.Module, batch: Batch) -> Any:
        """The network's outputs for a batch."""

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """One loss a sample, (B,), which does not depend on the samples beside it."""

    def training_flops(self, network: nn.Module, batch: Batch) -> int:
        """Of the whole batch: the forward pass, and twice as much again in the backward pass for what is trained."""

    def score(self, network: nn.Module, cases: Sequence[Case], ranks: Ranks, precision: str) -> list[dict[str, float]]:
        """Named scores by case, on every rank; a name is KIND.WHAT. The network is in evaluation mode."""
