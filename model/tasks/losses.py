"""Dice + cross-entropy for partially labelled samples.

A source annotates some structures; in its scans every other structure is unknown, not absent. The classes that a sample
does not annotate are merged into background as one event: its probability is the sum of theirs, its logit their
logsumexp (marginal loss, Shi et al. 2021). The sample then says nothing about which of them a background voxel shows.

B batch, K classes (0 is background), D H W voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DICE_SMOOTHING = 1e-5  # relative to the number of voxels, so that an empty structure in a patch has a bounded gradient


def dice_cross_entropy(
    logits_BKDHW: Tensor,
    target_BDHW: Tensor,
    annotated_BK: Tensor,
    dice_weight: float = 1.0,
    cross_entropy_weight: float = 1.0,
) -> Tensor:
    """One loss per sample, (B,), float32: its mean over samples is exact under any grouping into batches and ranks.

    `target_BDHW`: class index, any integer type; a class that the sample does not annotate counts as background.
    `annotated_BK`: bool; background counts as annotated always. The Dice term is the mean over annotated structures, 0
    for a sample that annotates none; each is computed over the one sample, never over the batch.
    """
    with torch.autocast(logits_BKDHW.device.type, enabled=False):
        logits = merge_unannotated(logits_BKDHW.float(), annotated_BK)
        target = target_BDHW.long()
        target = torch.where(annotated_BK.gather(1, target.flatten(1)).view_as(target), target, 0)
        log_probability = logits.log_softmax(dim=1)
        cross_entropy = F.nll_loss(log_probability, target, reduction="none").flatten(1).mean(dim=1)
        dice = soft_dice(log_probability.exp(), target, annotated_BK)
        return cross_entropy_weight * cross_entropy + dice_weight * (1 - dice)


def merge_unannotated(logits_BKDHW: Tensor, annotated_BK: Tensor) -> Tensor:
    """Logits in which class 0 stands for background and all unannotated classes together, and these are -inf-like."""
    unknown = ~annotated_BK
    unknown = torch.cat([torch.zeros_like(unknown[:, :1]), unknown[:, 1:]], dim=1)
    if not unknown.any():
        return logits_BKDHW
    lowest = torch.finfo(logits_BKDHW.dtype).min / 4
    unknown = unknown[:, :, None, None, None]
    known = logits_BKDHW.masked_fill(unknown, lowest)
    merged = torch.cat([logits_BKDHW[:, :1], logits_BKDHW[:, 1:].masked_fill(~unknown[:, 1:], lowest)], dim=1)
    return torch.cat([merged.logsumexp(dim=1, keepdim=True), known[:, 1:]], dim=1)


def soft_dice(probability_BKDHW: Tensor, target_BDHW: Tensor, annotated_BK: Tensor) -> Tensor:
    """Mean soft Dice over each sample's annotated structures, (B,); 1 where it annotates none.

    A structure absent from the patch scores near 1 if little is predicted; the smoothing bounds its gradient.
    """
    classes = probability_BKDHW.shape[1]
    one_hot = torch.stack([(target_BDHW == index) for index in range(1, classes)], dim=1).to(probability_BKDHW.dtype)
    probability = probability_BKDHW[:, 1:].flatten(2)
    one_hot = one_hot.flatten(2)
    smoothing = DICE_SMOOTHING * probability.shape[2] + 1e-3
    overlap = (probability * one_hot).sum(2)
    total = probability.sum(2) + one_hot.sum(2)
    dice = (2 * overlap + smoothing) / (total + smoothing)
    weight = annotated_BK[:, 1:].to(dice.dtype)
    return torch.where(weight.any(1), (dice * weight).sum(1) / weight.sum(1).clamp(min=1), 1.0)


def deep_supervision(
    logits: Sequence[Tensor],
    target_BDHW: Tensor,
    annotated_BK: Tensor,
    scale_weight: float = 0.5,
    dice_weight: float = 1.0,
    cross_entropy_weight: float = 1.0,
) -> Tensor:
    """Weighted mean of the losses of all outputs, finest first, each coarser one weighing `scale_weight` times as much.

    The target is sampled to each output's grid by nearest neighbour. Returns one loss per sample, (B,).
    """
    total = torch.zeros(len(target_BDHW), device=target_BDHW.device)
    weights = [scale_weight**index for index in range(len(logits))]
    for weight, output in zip(weights, logits, strict=True):
        target = _nearest(target_BDHW, output.shape[2:])
        total = total + weight * dice_cross_entropy(output, target, annotated_BK, dice_weight, cross_entropy_weight)
    return total / sum(weights)


def _nearest(target_BDHW: Tensor, size: Sequence[int]) -> Tensor:
    for axis, wanted in enumerate(size, start=1):
        length = target_BDHW.shape[axis]
        if wanted != length:
            index = (torch.arange(wanted, device=target_BDHW.device) * length) // wanted
            target_BDHW = target_BDHW.index_select(axis, index)
    return target_BDHW
