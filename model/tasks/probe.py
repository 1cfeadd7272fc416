"""A linear probe: how well a linear map of frozen features segments. Cheap, and it needs no training loop.

Linear discriminant analysis (Fisher 1936) of the features of each token and the class at its middle: in closed form,
from a few labelled training cases of a source; then Dice on the labelled validation cases. A random encoder is the
measure: what it reaches comes from the form of the network alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.data.casefile import Case
from model.data.dataset import Batch, Patch, StreamConfig
from model.data.targets import UNDECIDED
from model.data.validation import validation_batch, validation_patches
from model.engine.parallelize import autocast
from model.engine.ranks import Ranks, map_over_ranks, share_of_rank, sum_over_ranks
from model.network.config import strides
from model.tasks.cells import at_middles
from model.tasks.scores import Overlaps, dice_by_case, overlap_by_structure

CASES = 24  # of a source, at most; more change its Dice by little
NEVER = -1e9  # the score of a class without an example; interpolated, minus infinity would be NaN
TOKENS = 4096  # of a patch, at most
RIDGE = 1e-3  # of the mean variance of a feature

Features = Callable[[Patch], tuple[Batch, Tensor]]


@dataclass(frozen=True)
class Probe:
    """`stream`: with the classes of the labelled cases. `cases`: labelled training cases."""

    stream: StreamConfig
    cases: tuple[Case, ...]

    def score(self, network: Any, cases: Sequence[Case], ranks: Ranks, precision: str) -> list[dict[str, float]]:
        """`probe_dice.STRUCTURE` of each labelled case, on every rank; only sources with labels to learn from."""
        features = partial(_features, network, self.stream, ranks.device, precision)
        scores: list[dict[str, float]] = []
        for source in sorted({case.record.source for case in self.cases}):
            examples = [case for case in self.cases if case.record.source == source][:CASES]
            labelled = [case for case in cases if case.record.source == source and len(case.foreground)]
            if labelled:
                weight = self._fit(features, validation_patches(examples, self.stream), ranks)
                patches = validation_patches(labelled, self.stream)
                found = map_over_ranks(partial(self._overlaps, features, weight), patches, ranks)
                scores += dice_by_case("probe_dice", patches, found)
        return scores

    def _fit(self, features: Features, patches: Sequence[Patch], ranks: Ranks) -> Tensor:
        """(E + 1, K), float64; the last row is for the feature that is always 1."""
        products: Tensor | None = None
        for number, patch in share_of_rank(patches, ranks):
            batch, tokens_BDHWE = features(patch)
            classes = _at_tokens(batch, tokens_BDHWE.shape[1:4]).flatten()
            chosen = torch.linspace(0, len(classes) - 1, min(len(classes), TOKENS)).long()
            rows = _with_one(tokens_BDHWE.flatten(0, 3)[chosen.to(tokens_BDHWE.device)].double().cpu())
            rows, chosen = rows[classes[chosen] >= 0], chosen[classes[chosen] >= 0]
            classes = F.one_hot(classes[chosen], len(self.stream.classes) + 1)
            product = rows.T @ torch.cat([rows, classes.to(rows)], dim=1)
            product = product if number < len(patches) else torch.zeros_like(product)
            products = product if products is None else products + product
        assert products is not None
        return discriminant(sum_over_ranks(products, ranks))

    def _overlaps(self, features: Features, weight: Tensor, patch: Patch) -> Overlaps:
        batch, tokens_BDHWE = features(patch)
        weight = weight.float().to(tokens_BDHWE.device)
        slabs = [_with_one(slab.float()) @ weight for slab in tokens_BDHWE.unbind(1)]  # whole, they may be gigabytes
        scores_BKDHW = torch.stack(slabs, dim=1).permute(0, 4, 1, 2, 3).cpu()
        size = tokens_BDHWE.shape[1:4]
        whole = [n * step for n, step in zip(size, _token_stride(batch), strict=True)]
        voxels = F.interpolate(scores_BKDHW, size=whole, mode="trilinear", align_corners=False)
        d, h, w = batch.target.shape[1:]
        values = torch.tensor(batch.targets[0].values(len(self.stream.classes) + 1))
        return overlap_by_structure(values[voxels[:, :, :d, :h, :w].argmax(1)], batch)


def discriminant(products: Tensor) -> Tensor:
    """The linear function of a row that is largest for its class, if classes are normal with one covariance.

    `products` (E + 1, E + 1 + K): sums over rows x of x x' and of x y', where x ends with 1 and y is one-hot. Returns
    (E + 1, K). A class without rows is never the largest.
    """
    size = len(products) - 1
    gram, sums, counts = products[:size, :size], products[:size, size + 1 :], products[size, size + 1 :]
    means = sums / counts.clamp(min=1)
    within = (gram - (means * counts) @ means.T) / counts.sum()
    within += RIDGE * within.diagonal().mean() * torch.eye(size, dtype=within.dtype)
    slopes = torch.linalg.solve(within, means)
    offsets = (counts / counts.sum()).log() - 0.5 * (means * slopes).sum(0)
    offsets = offsets.masked_fill(counts == 0, NEVER)
    return torch.cat([slopes, offsets.unsqueeze(0)])


def _features(
    network: Any, stream: StreamConfig, device: torch.device, precision: str, patch: Patch
) -> tuple[Batch, Tensor]:
    """A plain patch, and its tokens' features (1, D, H, W, E), on the device."""
    batch = validation_batch(patch, stream).to(device)
    with autocast(device, precision):
        return batch, network(batch.image, batch.modality, batch.spacing_mm)


def _at_tokens(batch: Batch, size: Sequence[int]) -> Tensor:
    """The class of the voxel in the middle of each token; UNDECIDED where nobody decided."""
    classes = torch.tensor([*batch.targets[0].classes, UNDECIDED])  # the value -1 is the last
    target_BDHW = classes[batch.target.cpu()]
    return at_middles(target_BDHW, _token_stride(batch), size)


def _token_stride(batch: Batch) -> list[int]:
    return [prod(step[axis] for step in strides(batch.spacing_mm)[:2]) for axis in range(3)]


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1)
