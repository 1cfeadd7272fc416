"""Masked-volume modelling: the encoder learns from scans without labels to see what is hidden from it.

    network = MaskedAutoencoder(PRESETS["tiny"])
    predicted = network(image_BCDHW, modality_BC, spacing_mm=(1.0, 1.0, 1.0), masked_BDHW)      # (B, C, D, H, W)

Cells of a grid over the patch are hidden, the same for all channels and, being hidden voxels, for all scales (SimMIM,
Xie et al. 2022; hierarchical as in SparK, Tian et al. 2023). A light decoder predicts their voxels, each cell's to mean
0 and deviation 1 (He et al. 2022). So the loss is a share: 1 is what the mean of each cell, were it known, would reach.

Embedding and encoder have the names that they have in MedSegFormer; fine-tuning takes them and leaves the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.data.casefile import Case
from model.data.dataset import Batch, StreamConfig
from model.data.draws import Purpose, generator
from model.data.validation import validation_batch, validation_patches
from model.engine.parallelize import autocast
from model.engine.ranks import Ranks, map_over_ranks
from model.network.config import NetworkConfig, sizes_after, spacings_after, strides
from model.network.embedding import PatchEmbedding
from model.network.encoder import Encoder
from model.network.layers import BlockNetwork, FillNormal, Upsample
from model.network.sizes import pretraining_flops
from model.tasks.probe import Probe

TOKENS = 2  # downsamplings up to the encoder's first tokens, at stride 4
SMALLEST_DEVIATION = 0.1  # of a cell that has something to predict, in the scan's own; below it lie air and noise


class MaskedAutoencoder(BlockNetwork):
    """The encoder with what pretraining needs beside it: a token that stands for hidden ones, and a light decoder."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = PatchEmbedding(config)
        self.encoder = Encoder(config)
        self.hidden = HiddenToken(config.widths[0])
        self.reconstruction = Reconstruction(config)
        if next(self.parameters()).device.type != "meta":
            self.init_weights()

    def forward(
        self,
        image_BCDHW: Tensor,
        modality_BC: Tensor,
        spacing_mm: tuple[float, float, float],
        masked_BDHW: Tensor | None = None,
    ) -> Tensor:
        """Every voxel of every channel, (B, C, D, H, W), in units of its cell; or `features`, if nothing is masked.

        `masked_BDHW`: bool, on the grid of the first tokens; those voxels of all channels are not seen.
        """
        if masked_BDHW is None:
            return self.features(image_BCDHW, modality_BC, spacing_mm)
        steps = strides(spacing_mm)
        hidden = spread(masked_BDHW, steps[:TOKENS], image_BCDHW.shape[2:])
        image_BCDHW = image_BCDHW.masked_fill(hidden.unsqueeze(1), 0.0)
        full, half, tokens_BDHWE = self.embedding(image_BCDHW, modality_BC, spacing_mm, steps)
        features = self.encoder(self.hidden(tokens_BDHWE, masked_BDHW), spacings_after(spacing_mm)[2:], steps[2:])
        return self.reconstruction((full, half), features, modality_BC, steps)

    def features(self, image_BCDHW: Tensor, modality_BC: Tensor, spacing_mm: tuple[float, float, float]) -> Tensor:
        """What the encoder says of each of its first tokens: all scales side by side, (B, D, H, W, E)."""
        steps = strides(spacing_mm)
        _, _, tokens_BDHWE = self.embedding(image_BCDHW, modality_BC, spacing_mm, steps)
        features = self.encoder(tokens_BDHWE, spacings_after(spacing_mm)[2:], steps[2:])
        size = features[0].shape[1:4]
        scales = [spread(feature, steps[2 : 2 + level], size) for level, feature in enumerate(features)]
        return torch.cat(scales, dim=-1)


class HiddenToken(nn.Module):
    """One learned token in the place of each that is hidden."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(dim))

    def fill_parameters(self, fill: FillNormal) -> None:
        fill(self.token, 1.0)

    def forward(self, tokens_BDHWE: Tensor, masked_BDHW: Tensor) -> Tensor:
        return torch.where(masked_BDHW.unsqueeze(-1), self.token.to(tokens_BDHWE.dtype), tokens_BDHWE)


class Reconstruction(nn.Module):
    """Light decoder: the scales are added up from coarse to fine, then upsampled with the embedding's skips.

    A channel's voxels are a product of the last features and a vector of its modality, so any set of them is read from
    one set of weights.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim, (full, half) = config.widths[0], config.stem_dims
        self.laterals = nn.ModuleList(nn.Linear(width, dim) for width in config.widths)
        self.upsamples = nn.ModuleList(Upsample(dim, dim) for _ in config.widths[1:])
        self.norm = nn.LayerNorm(dim)
        self.to_half = Upsample(dim, half)
        self.to_full = Upsample(half, full)
        self.modality = nn.Embedding(len(config.modalities) - 1, full)

    def forward(
        self,
        skips_BCDHW: Sequence[Tensor],
        features_BDHWE: Sequence[Tensor],
        modality_BC: Tensor,
        steps: Sequence[Sequence[int]],
    ) -> Tensor:
        volume_BDHWE = self.laterals[-1](features_BDHWE[-1])
        for level in reversed(range(len(self.upsamples))):
            lateral = self.laterals[level](features_BDHWE[level])
            volume_BDHWE = lateral + self.upsamples[level](volume_BDHWE, steps[level + TOKENS], lateral.shape[1:4])
        volume_BDHWE = self.norm(volume_BDHWE)
        for upsample, skip_BCDHW, step in zip(
            (self.to_half, self.to_full), skips_BCDHW[::-1], steps[1::-1], strict=True
        ):
            volume_BDHWE = upsample(volume_BDHWE, step, skip_BCDHW.shape[2:])
            volume_BDHWE = F.gelu(volume_BDHWE + skip_BCDHW.permute(0, 2, 3, 4, 1))
        weight_BCE = self.modality((modality_BC - 1).clamp(min=0)) * volume_BDHWE.shape[-1] ** -0.5
        voxels_BCN = torch.matmul(weight_BCE.to(volume_BDHWE.dtype), volume_BDHWE.flatten(1, 3).mT)
        return voxels_BCN.unflatten(2, volume_BDHWE.shape[1:4])


@dataclass(frozen=True)
class MaskedModelling:
    """The task. `mask_stride`: edge of a cell, in voxels of the finest axis, 4 to 32; `mask_fraction`: cells hidden.

    Scored by the share of variance within hidden cells that is predicted, over one patch of each validation case, and
    by a linear probe of the frozen features on the labelled ones (`probe`), from before the first step on.
    """

    stream: StreamConfig
    mask_stride: int
    mask_fraction: float
    probe: Probe | None = None
    decides: str = "validation_explained.mean"
    scored_before: bool = True

    def forward(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predicted voxels, and which cells of the grid were hidden."""
        cells = self.hidden_cells(batch)
        masked = self.masked_tokens(cells, batch)
        return network(batch.image, batch.modality, batch.spacing_mm, masked), cells

    def loss(self, outputs: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
        error_BC, counted_BC = self._errors(*outputs, batch)
        return error_BC.sum(1) / counted_BC.sum(1).clamp(min=1)

    def training_flops(self, network: nn.Module, batch: Batch) -> int:
        size, channels = tuple(batch.image.shape[2:]), batch.modality.shape[1]
        config: Any = network.config
        return 3 * len(batch.image) * pretraining_flops(config, size, batch.spacing_mm, channels)

    def score(self, network: nn.Module, cases: Sequence[Case], ranks: Ranks, precision: str) -> list[dict[str, float]]:
        scores = map_over_ranks(partial(self._explained, network, ranks.device, precision), cases, ranks)
        if self.probe is None:
            return scores
        return [*scores, *self.probe.score(network, cases, ranks, precision)]

    def hidden_cells(self, batch: Batch) -> Tensor:
        """Bool (B, d, h, w) on the grid of cells: a function of the seed and of each sample's number."""
        grid = sizes_after(batch.image.shape[2:], batch.spacing_mm)[self.level]
        count = prod(grid)
        hidden = np.zeros((len(batch.image), count), dtype=bool)
        for row, cells in enumerate(hidden):
            rng = generator(self.stream.seed, batch.index + row, Purpose.MASK)
            most = max(1, min(count - 1, round(self.mask_fraction * count)))
            cells[rng.permutation(count)[:most]] = True
        return torch.from_numpy(hidden.reshape(-1, *grid)).to(batch.image.device)

    def masked_tokens(self, cells_BDHW: Tensor, batch: Batch) -> Tensor:
        """The same on the grid of the encoder's first tokens."""
        size = sizes_after(batch.image.shape[2:], batch.spacing_mm)[TOKENS]
        return spread(cells_BDHW, strides(batch.spacing_mm)[TOKENS : self.level], size)

    @property
    def level(self) -> int:
        """How many downsamplings lead to the grid of cells."""
        return self.mask_stride.bit_length() - 1

    def cell(self, spacing_mm: Sequence[float]) -> list[int]:
        """Voxels of a cell along each axis."""
        return [prod([step[axis] for step in strides(spacing_mm)[: self.level]]) for axis in range(3)]

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Voxels by cell, (B, C, d, h, w, n) with mean 0 and deviation 1; which cells have something to predict.

        Cells that the border of the patch cuts are left out.
        """
        voxels = self.by_cell(batch.image.float(), batch.spacing_mm)
        deviation, mean = torch.std_mean(voxels, dim=-1, keepdim=True, correction=0)
        counted = (deviation.squeeze(-1) > SMALLEST_DEVIATION) & (batch.modality > 0)[:, :, None, None, None]
        return (voxels - mean) / deviation.clamp(min=SMALLEST_DEVIATION), counted

    def by_cell(self, volume_BCDHW: Tensor, spacing_mm: Sequence[float]) -> Tensor:
        """(B, C, d, h, w, n): the n voxels of each whole cell."""
        for axis, edge in enumerate(self.cell(spacing_mm)):
            volume_BCDHW = volume_BCDHW.unfold(2 + axis, edge, edge)
        return volume_BCDHW.flatten(5)

    def _errors(self, predicted_BCDHW: Tensor, cells_BDHW: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """By channel, (B, C): sum of the mean square errors of hidden cells, and their number."""
        with torch.autocast(batch.image.device.type, enabled=False):
            target, counted = self.targets(batch)
            predicted = self.by_cell(predicted_BCDHW.float(), batch.spacing_mm)
            d, h, w = target.shape[2:5]
            counted = counted & cells_BDHW[:, None, :d, :h, :w]
            error = (predicted - target).square().mean(-1)
            return (error * counted).flatten(2).sum(2), counted.flatten(2).sum(2)

    def _explained(self, network: nn.Module, device: torch.device, precision: str, case: Case) -> dict[str, float]:
        batch = self._patch_of(case).to(device)
        with autocast(device, precision):
            outputs = self.forward(network, batch)
        error_BC, counted_BC = self._errors(*outputs, batch)
        return {
            f"validation_explained.{name}": 1 - float(error / counted)
            for name, error, counted in zip(case.record.modalities, error_BC[0], counted_BC[0], strict=True)
            if counted
        }

    def _patch_of(self, case: Case) -> Batch:
        """One patch says enough: what is to be seen does not depend on structures."""
        (patch,) = validation_patches([case], self.stream, most=1)
        return validation_batch(patch, self.stream)

    @torch.no_grad()
    def painted(
        self, network: nn.Module, case: Case, device: torch.device, precision: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A patch of a case for a person's eye, on the CPU: image (C, D, H, W), what was hidden of it (D, H, W), and
        the image with the prediction in the hidden cells, each with the mean and deviation that it really has."""
        batch = self._patch_of(case).to(device)
        with autocast(device, precision):
            predicted, cells = self.forward(network, batch)
        voxels = self.by_cell(batch.image.float(), batch.spacing_mm)
        deviation, mean = (value.movedim(1, -1) for value in torch.std_mean(voxels, dim=-1, correction=0))
        steps = strides(batch.spacing_mm)[: self.level]
        whole = [voxels.shape[2 + axis] * prod(step[axis] for step in steps) for axis in range(3)]
        hidden = torch.zeros(batch.image.shape[2:], dtype=torch.bool, device=device)
        d, h, w = whole
        hidden[:d, :h, :w] = spread(cells, steps, whole)[0]
        deviation, mean = (spread(value, steps, whole)[0].movedim(-1, 0) for value in (deviation, mean))
        painted = batch.image[0].clone()
        painted[:, :d, :h, :w] = torch.where(
            hidden[:d, :h, :w], predicted[0, :, :d, :h, :w].float() * deviation + mean, painted[:, :d, :h, :w]
        )
        return batch.image[0].cpu(), hidden.cpu(), painted.cpu()


def spread(grid: Tensor, steps: Sequence[Sequence[int]], size: Sequence[int]) -> Tensor:
    """Every cell of a (B, d, h, w, ...) grid repeated `steps` times along each axis, then cut to `size`."""
    for axis in range(3):
        factor = prod(step[axis] for step in steps)
        if factor > 1:
            grid = grid.repeat_interleave(factor, dim=1 + axis)
    return grid[:, : size[0], : size[1], : size[2]]
