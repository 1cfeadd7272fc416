"""Encoder: four stages of transformer blocks, at strides 4, 8, 16 and 32 for cubic voxels.

Attention costs queries x keys; the keys are the stage's own tokens pooled to a bounded grid, so the cost is linear in
the number of voxels. There is no position embedding: the depth-wise convolutions see the borders.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from model.config import NetworkConfig, pooled_grid
from model.layers import Block, Conv3d, convolve


class Encoder(nn.Module):
    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.key_tokens = config.key_tokens
        self.downsamples = nn.ModuleList(Conv3d(before, after) for before, after in pairwise(config.widths))
        rates = iter(config.drop_path_rates)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                Block(dim, config.head_dim, config.hidden_dim(dim), drop_path=next(rates)) for _ in range(depth)
            )
            for dim, depth in zip(config.widths, config.depths, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in config.widths)

    def forward(
        self, volume_BDHWE: Tensor, spacings_mm: Sequence[Sequence[float]], strides: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Normalised features of each stage, fine to coarse. `spacings_mm` per stage, `strides` between stages."""
        features = []
        for index, (blocks, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            if index > 0:
                volume_BDHWE = convolve(self.downsamples[index - 1], volume_BDHWE, strides[index - 1])
            grid = pooled_grid(volume_BDHWE.shape[1:4], spacings_mm[index], self.key_tokens)
            for block in blocks:
                volume_BDHWE = block(volume_BDHWE, grid)
            features.append(norm(volume_BDHWE))
        return features
