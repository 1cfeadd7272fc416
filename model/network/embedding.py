"""Patch embedding: any set of modalities, in any order, at any voxel spacing, into one set of weights.

Each image channel passes the same overlapping convolutional stem, modulated by what the channel shows (modality) and by
how large its voxels are (log spacing). At stride 1 and at stride 2 the channels present are merged, voxel by voxel,
by a softmax over channels:

    f_c = gelu((1 + g(m_c, s)) * norm(conv(x_c)) + b(m_c, s))        m_c modality, s log spacing, conv and norm shared
    merged = sum_c w_c f_c,   w = softmax over c of (a . f_c)         absent channels: w_c = 0 exactly

A sum does not know the order of its terms, and an absent channel is no term: both are laws, held by tests. One channel
alone has weight 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.config import NetworkConfig
from model.network.layers import Conv3d, FillNormal, FullResolution
from model.network.norms import VolumeNorm


class PatchEmbedding(nn.Module):
    """Image to features at strides 1 and 2 (the decoder's skips) and 4 (the encoder's first tokens)."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.modality = nn.Embedding(len(config.modalities) - 1, config.condition_dim)  # an absent channel has none
        self.condition = nn.Linear(config.condition_dim + 3, config.condition_dim)
        self.stem_full = ConditionedConv(1, config.stem_dims[0], config.condition_dim)
        self.full_gate = ChannelGate(config.stem_dims[0])
        self.stem_half = ConditionedConv(config.stem_dims[0], config.stem_dims[1], config.condition_dim)
        self.half_gate = ChannelGate(config.stem_dims[1])
        self.stem_quarter = Conv3d(config.stem_dims[1], config.widths[0])

    def forward(
        self,
        image_BCDHW: Tensor,
        modality_BC: Tensor,
        spacing_mm: Sequence[float],
        strides: Sequence[Sequence[int]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features at strides 1, 2 (channels-first) and 4 (channels-last). Modality 0 marks an absent channel."""
        batch, channels = modality_BC.shape
        present_BC = modality_BC > 0
        image_BCDHW = torch.where(present_BC[:, :, None, None, None], image_BCDHW, 0.0)
        condition = self._condition(modality_BC, spacing_mm)
        if channels == 1:  # which no gate is asked for: every rank of a sharded run has the same gradients to reduce
            condition = condition + 0.0 * (self.full_gate.weight.sum() + self.half_gate.weight.sum())
        full = self.stem_full(image_BCDHW.flatten(0, 1).unsqueeze(1), condition, (1, 1, 1))
        half = self.stem_half(full, condition, strides[0])
        merged_full = self.full_gate(full.unflatten(0, (batch, channels)), present_BC)
        merged_half = self.half_gate(half.unflatten(0, (batch, channels)), present_BC)
        return merged_full, merged_half, self.stem_quarter(merged_half, strides[1]).permute(0, 2, 3, 4, 1)

    def _condition(self, modality_BC: Tensor, spacing_mm: Sequence[float]) -> Tensor:
        """One vector per channel of the batch, (B * C, condition)."""
        modality = self.modality((modality_BC.flatten() - 1).clamp(min=0))
        log_spacing = modality.new_tensor([math.log(mm) for mm in spacing_mm]).expand(len(modality), 3)
        return F.silu(self.condition(torch.cat([modality, log_spacing], dim=1)))


class ConditionedConv(FullResolution):
    """Convolution, group norm, then scale and shift by the condition (FiLM, Perez et al. 2018), then GELU."""

    def __init__(self, in_dim: int, out_dim: int, condition_dim: int):
        super().__init__()
        self.conv = Conv3d(in_dim, out_dim, bias=False)
        self.norm = VolumeNorm(out_dim)
        self.modulation = nn.Linear(condition_dim, 2 * out_dim)

    def forward(self, volume_BCDHW: Tensor, condition: Tensor, stride: Sequence[int]) -> Tensor:
        scale, shift = self.modulation(condition).float().chunk(2, dim=1)
        return F.gelu(self.norm.modulated(self.conv(volume_BCDHW, stride), 1 + scale, shift))


class ChannelGate(FullResolution):
    """Weighted mean over the image channels present; the weights are a softmax over channels, voxel by voxel."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))

    def fill_parameters(self, fill: FillNormal) -> None:
        fill(self.weight, len(self.weight) ** -0.5)

    def forward(self, features_BCEDHW: Tensor, present_BC: Tensor) -> Tensor:
        """(B, E, D, H, W). One channel's weight is 1, and nothing is computed."""
        if features_BCEDHW.shape[1] == 1:
            return features_BCEDHW.squeeze(1)
        batch, channels = present_BC.shape
        product = self.weight.expand(batch * channels, 1, -1)
        logits_BC1N = torch.bmm(product, features_BCEDHW.flatten(0, 1).flatten(2)).unflatten(0, (batch, channels))
        present = present_BC[:, :, None, None]
        logits = logits_BC1N.float().masked_fill(~present, torch.finfo(torch.float32).min)
        weight = (logits.softmax(dim=1) * present).unflatten(3, features_BCEDHW.shape[3:]).to(features_BCEDHW.dtype)
        return (weight * features_BCEDHW).sum(dim=1)
