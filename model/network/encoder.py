"""Encoder: four stages of transformer blocks, at strides 4, 8, 16 and 32 for cubic voxels.

Attention costs queries x keys; the keys are the stage's own tokens pooled to a bounded grid, so the cost is linear in
the number of voxels. There is no position embedding: the depth-wise convolutions see the borders.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from model.network.config import NetworkConfig, pooled_grid
from model.network.layers import Conv3d, TransformerBlock, convolve, draw_depth
from model.network.norms import TokenNorm


class Encoder(nn.Module):
    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.stages = nn.ModuleList(EncoderStage(config, index) for index in range(len(config.widths)))

    def forward(
        self, volume_BDHWE: Tensor, spacings_mm: Sequence[Sequence[float]], strides: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Normalised features of each stage, fine to coarse.

        `volume_BDHWE` is on the first stage's grid; `strides` lead from each stage to the next, `spacings_mm` belong to
        the stages.
        """
        features = []
        for stage, spacing_mm, stride in zip(self.stages, spacings_mm, ((1, 1, 1), *strides), strict=True):
            volume_BDHWE = stage(volume_BDHWE, spacing_mm, stride)
            features.append(volume_BDHWE)
        return features


class EncoderStage(nn.Module):
    """A strided convolution (not in the first stage, which the embedding feeds), the blocks, and a norm.

    What the next stage starts from is normalised, too: a residual stream that was handed on as it is grew by a factor
    with every convolution, until blocks added nothing to it that counts and float16 did not hold it.
    """

    def __init__(self, config: NetworkConfig, index: int):
        super().__init__()
        dim, before = config.widths[index], sum(config.depths[:index])
        self.drop_path_rates = config.drop_path_rates[before : before + config.depths[index]]
        self.key_tokens = config.key_tokens
        self.downsample = Conv3d(config.widths[index - 1], dim) if index > 0 else None
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.head_dim, config.hidden_dim(dim)) for _ in self.drop_path_rates
        )
        self.output_norm = TokenNorm(dim)

    def forward(self, volume_BDHWE: Tensor, spacing_mm: Sequence[float], stride: Sequence[int]) -> Tensor:
        if self.downsample is not None:
            volume_BDHWE = convolve(self.downsample, volume_BDHWE, stride)
        grid = pooled_grid(volume_BDHWE.shape[1:4], spacing_mm, self.key_tokens)
        for block, rate in zip(self.blocks, self.drop_path_rates, strict=True):
            depth = draw_depth(volume_BDHWE, rate) if self.training and rate else None
            volume_BDHWE = block(volume_BDHWE, grid, depth=depth)
        return self.output_norm(volume_BDHWE)
