"""The network as others call it: an image in, logits of what one training source tells apart out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.network.config import NetworkConfig
from model.network.medsegformer import MedSegFormer
from model.tasks.losses import merge


class ExportedNetwork(nn.Module):
    """`network`: the fields of a NetworkConfig. `groups`: of the `classes` (background among them), as
    `pipelines.serving.segmenter.Shown` has them. `rows`: of the modality embedding, one a channel."""

    def __init__(
        self,
        network: Mapping[str, Any],
        classes: int,
        groups: Sequence[Sequence[int]],
        rows: Sequence[int],
        spacing_mm: Sequence[float],
    ) -> None:
        super().__init__()
        self.network = MedSegFormer(NetworkConfig.of_record(network), num_classes=classes)
        self.groups, self.rows = [tuple(group) for group in groups], list(rows)
        d, h, w = spacing_mm
        self.spacing_mm = d, h, w

    def forward(self, image: Tensor, modality: Tensor | None = None) -> Tensor:
        """Logits (B, G, D, H, W) of `image` (B, C, D, H, W). `modality` (B, C), int64: other rows; 0: not there."""
        if modality is None:
            modality = torch.tensor([self.rows], device=image.device).expand(len(image), -1)
        return merge(self.network(image, modality, self.spacing_mm), self.groups)
