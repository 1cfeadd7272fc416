"""Segmentation: every voxel's structure, from cases that annotate some structures each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from model.data.casefile import Case
from model.data.dataset import Batch, Patch, StreamConfig
from model.data.validation import validation_batch, validation_patches
from model.engine.parallelize import autocast
from model.engine.ranks import Ranks, map_over_ranks
from model.network.config import strides
from model.network.sizes import encoder_flops, forward_flops
from model.tasks.losses import deep_supervision, merge
from model.tasks.scores import Overlaps, dice_by_case, overlap_by_structure


@dataclass(frozen=True)
class Segmentation:
    """Dice and cross-entropy at three scales; scored by Dice over the patches of each validation case."""

    stream: StreamConfig
    decides: str = "validation_dice.mean"
    scored_before: bool = False

    def forward(self, network: nn.Module, batch: Batch) -> Any:
        return network(batch.image, batch.modality, batch.spacing_mm, auxiliary=True)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return deep_supervision(outputs, batch.target, batch.targets, strides(batch.spacing_mm))

    def training_flops(self, network: Any, batch: Batch) -> int:
        """No gradient passes through a frozen encoder."""
        size, channels = tuple(batch.target.shape[1:]), batch.modality.shape[1]
        classes = len(self.stream.classes) + 1
        forward = forward_flops(network.config, classes, size, batch.spacing_mm, channels)
        frozen = not any(parameter.requires_grad for parameter in network.encoder.parameters())
        passed = encoder_flops(network.config, size, batch.spacing_mm, channels) if frozen else 0
        return len(batch.target) * (3 * forward - 2 * passed)

    def score(self, network: nn.Module, cases: Sequence[Case], ranks: Ranks, precision: str) -> list[dict[str, float]]:
        patches = validation_patches([case for case in cases if len(case.foreground)], self.stream)
        found = map_over_ranks(partial(self._overlaps, network, ranks.device, precision), patches, ranks)
        return dice_by_case("validation_dice", patches, found)

    def _overlaps(self, network: nn.Module, device: torch.device, precision: str, patch: Patch) -> Overlaps:
        batch = validation_batch(patch, self.stream).to(device)
        with autocast(device, precision):
            logits = network(batch.image, batch.modality, batch.spacing_mm)
        groups = ((0,), *batch.targets[0].groups[1:])  # what the source does not annotate competes with nothing here
        predicted = merge(logits.float(), groups).argmax(1)
        return overlap_by_structure(predicted, batch)
