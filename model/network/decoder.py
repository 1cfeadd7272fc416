"""Decoder: fuses the scales by cross-attention, then returns to full resolution.

A memory holds all four scales, each pooled to a bounded grid. From coarse to fine, the features of a scale join the
upsampled coarser result and query that memory. Two convolutional steps, with the embedding's skips, lead to stride 1;
they are kept narrow, since on full-resolution voxels they would cost more than all attention together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.config import NetworkConfig, pooled_grid
from model.network.layers import Conv3d, FullResolution, TransformerBlock, Upsample
from model.network.norms import TokenNorm, VolumeNorm
from model.network.pooling import pool


class Decoder(nn.Module):
    def __init__(self, config: NetworkConfig, num_classes: int):
        super().__init__()
        dims = config.decoder_widths
        self.memory_tokens = config.memory_tokens
        self.memory = nn.ModuleList(nn.Linear(width, config.memory_dim) for width in config.widths)
        self.memory_norm = TokenNorm(config.memory_dim)
        self.laterals = nn.ModuleList(nn.Linear(width, dim) for width, dim in zip(config.widths, dims, strict=True))
        self.upsamples = nn.ModuleList(Upsample(coarse, fine) for fine, coarse in pairwise(dims))
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.head_dim, config.hidden_dim(dim), memory_dim=config.memory_dim)
            for dim in dims[:-1]
        )
        self.to_half = RefineStep(dims[0], config.stem_dims[1])
        self.to_full = RefineStep(config.stem_dims[1], config.stem_dims[0])
        self.heads = nn.ModuleList(Head(dim, num_classes) for dim in config.head_dims)

    def forward(
        self,
        skips_BCDHW: Sequence[Tensor],
        features_BDHWE: Sequence[Tensor],
        spacings_mm: Sequence[Sequence[float]],
        strides: Sequence[Sequence[int]],
        auxiliary: bool,
    ) -> list[Tensor]:
        """Logits (B, classes, D, H, W) at full resolution; with `auxiliary`, also those of the coarser heads."""
        memory_BNE = self._memory(features_BDHWE, spacings_mm)
        volume_BDHWE = self.laterals[-1](features_BDHWE[-1])
        for level in reversed(range(len(self.blocks))):
            lateral = self.laterals[level](features_BDHWE[level])
            volume_BDHWE = lateral + self.upsamples[level](volume_BDHWE, strides[level + 2], lateral.shape[1:4])
            volume_BDHWE = self.blocks[level](volume_BDHWE, (), memory_BNE)
        half_BCDHW = self.to_half(volume_BDHWE, skips_BCDHW[1], strides[1])
        full_BCDHW = self.to_full(half_BCDHW.permute(0, 2, 3, 4, 1), skips_BCDHW[0], strides[0])
        outputs = [full_BCDHW, half_BCDHW, volume_BDHWE.permute(0, 4, 1, 2, 3)]
        used = len(self.heads) if auxiliary else 1
        return [head(out) for head, out in zip(self.heads[:used], outputs, strict=False)]

    def _memory(self, features_BDHWE: Sequence[Tensor], spacings_mm: Sequence[Sequence[float]]) -> Tensor:
        scales = []
        for project, feature, spacing_mm in zip(self.memory, features_BDHWE, spacings_mm, strict=True):
            grid = pooled_grid(feature.shape[1:4], spacing_mm, self.memory_tokens)
            scales.append(project(pool(feature, grid).flatten(1, 3)))
        return self.memory_norm(torch.cat(scales, dim=1))


class RefineStep(FullResolution):
    """Upsample, add the embedding's skip, then one 3^3 convolution."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.upsample = Upsample(in_dim, out_dim)
        self.conv = Conv3d(out_dim, out_dim, bias=False)
        self.norm = VolumeNorm(out_dim)

    def forward(self, volume_BDHWE: Tensor, skip_BCDHW: Tensor, stride: Sequence[int]) -> Tensor:
        upsampled_BDHWE = self.upsample(volume_BDHWE, stride, skip_BCDHW.shape[2:])
        joined_BCDHW = skip_BCDHW + upsampled_BDHWE.permute(0, 4, 1, 2, 3)
        return F.gelu(self.norm(self.conv(joined_BCDHW)))


class Head(nn.Linear):
    """A linear layer over the channels of a channels-first volume, without a change of its layout."""

    row_axes = 0

    def forward(self, volume_BCDHW: Tensor) -> Tensor:
        weight = self.weight.expand(len(volume_BCDHW), -1, -1)
        logits = torch.bmm(weight, volume_BCDHW.flatten(2)) + self.bias.unsqueeze(1)
        return logits.unflatten(2, volume_BCDHW.shape[2:])
