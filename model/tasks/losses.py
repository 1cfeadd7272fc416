"""Dice + cross-entropy for partially labelled samples.

A source annotates some structures; in its scans every other structure is unknown, not absent. The classes that a value
of a sample's target stands for (model/data/targets.py) are merged into one event: its probability is the sum of theirs,
its logit their logsumexp (marginal loss, Shi et al. 2021). So the sample says nothing about which of the unknown
structures a background voxel shows, nor on which side a kidney lies that was only called a kidney.

B batch, K classes (0 is background), G values of the target, D H W voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from model.data.targets import UNDECIDED, Targets
from model.tasks.cells import at_middles

# In voxels of the image, whatever the patch: missing a lesion of 65 voxels costs 65 / 65.5 of its Dice term.
DICE_SMOOTHING = 0.5


def dice_cross_entropy(
    logits_BKDHW: Tensor,
    target_BDHW: Tensor,
    targets: Sequence[Targets],
    dice_weight: float = 1.0,
    cross_entropy_weight: float = 1.0,
    smoothing: float = DICE_SMOOTHING,
) -> Tensor:
    """One loss per sample, (B,), float32: its mean over samples is exact under any grouping into batches and ranks.

    `target_BDHW`: values, any integer type; UNDECIDED voxels count nowhere. `targets`: what they mean, a sample each.
    `smoothing` of the Dice term, in voxels of the target.
    The Dice term is the mean over those annotated structures and trained regions that the sample shows, 0 if it shows
    none; each is computed over the one sample, never over the batch.
    """
    if len(set(targets)) > 1:
        weights = (dice_weight, cross_entropy_weight, smoothing)
        each = zip(logits_BKDHW.split(1), target_BDHW.split(1), targets, strict=True)
        return torch.cat([dice_cross_entropy(logits, target, [one], *weights) for logits, target, one in each])
    with torch.autocast(logits_BKDHW.device.type, enabled=False):
        target = target_BDHW.long()
        log_probability = merge(logits_BKDHW.float(), targets[0].groups).log_softmax(dim=1)
        lost = F.nll_loss(log_probability, target, ignore_index=UNDECIDED, reduction="none").flatten(1)
        probability = log_probability.exp()
        if targets[0].undecided:
            decided = target != UNDECIDED
            probability = probability * decided.unsqueeze(1)
            cross_entropy = lost.sum(dim=1) / decided.flatten(1).sum(dim=1).clamp(min=1)
        else:
            cross_entropy = lost.mean(dim=1)
        dice = soft_dice(probability, target, targets[0].regions, smoothing)
        return cross_entropy_weight * cross_entropy + dice_weight * (1 - dice)


def merge(logits_BKDHW: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Logits of the values of a target, (B, G, D, H, W): of each group of classes the logsumexp."""
    if [list(group) for group in groups] == [[index] for index in range(logits_BKDHW.shape[1])]:
        return logits_BKDHW
    return torch.cat(
        [
            logits_BKDHW[:, group[0] : group[0] + 1]
            if len(group) == 1
            else logits_BKDHW[:, list(group)].logsumexp(dim=1, keepdim=True)
            for group in groups
        ],
        dim=1,
    )


def soft_dice(
    probability_BGDHW: Tensor,
    target_BDHW: Tensor,
    regions: Sequence[Sequence[int]] = (),
    smoothing: float = DICE_SMOOTHING,
) -> Tensor:
    """Mean soft Dice over those of each sample's structures and `regions` (values each) that it shows, (B,); else 1.

    Undecided voxels have probability 0. What is absent from the patch is left to the cross-entropy: its Dice term would
    be 1 for nothing predicted and near 0 above a voxel, so that where a rare structure's probability sums to less,
    every patch without it would press it out. (nnU-Net's smoothing of 1e-5 comes to the same.)
    """
    values = [(value,) for value in range(1, probability_BGDHW.shape[1])]
    if not values:
        return probability_BGDHW.new_ones(len(probability_BGDHW))
    one_hot = torch.stack([target_BDHW == value for (value,) in values], dim=1).to(probability_BGDHW.dtype).flatten(2)
    probability = probability_BGDHW[:, 1:].flatten(2)
    if regions:
        rows = [[value - 1 for value in region] for region in regions]
        probability = torch.cat([probability, *(probability[:, row].sum(1, keepdim=True) for row in rows)], dim=1)
        one_hot = torch.cat([one_hot, *(one_hot[:, row].sum(1, keepdim=True) for row in rows)], dim=1)
    overlap, shown = (probability * one_hot).sum(2), one_hot.sum(2)
    dice = (2 * overlap + smoothing) / (probability.sum(2) + shown + smoothing)
    present = shown > 0
    return torch.where(present.any(1), (dice * present).sum(1) / present.sum(1).clamp(min=1), 1.0)


def deep_supervision(
    logits: Sequence[Tensor],
    target_BDHW: Tensor,
    targets: Sequence[Targets],
    steps: Sequence[Sequence[int]],
    scale_weight: float = 0.5,
    dice_weight: float = 1.0,
    cross_entropy_weight: float = 1.0,
) -> Tensor:
    """Weighted mean of the losses of all outputs, finest first, each coarser one weighing `scale_weight` times as much.

    `steps`: the strides that lead from each output to the next, which are the network's. A coarser output is held to
    the target in the middle of its cells. Returns one loss per sample, (B,).
    """
    total = torch.zeros(len(target_BDHW), device=target_BDHW.device)
    weights = [scale_weight**index for index in range(len(logits))]
    for level, (weight, output) in enumerate(zip(weights, logits, strict=True)):
        cell = [prod([step[axis] for step in steps[:level]]) for axis in range(3)]
        target = at_middles(target_BDHW, cell, output.shape[2:])
        smoothing = DICE_SMOOTHING / prod(cell)
        loss = dice_cross_entropy(output, target, targets, dice_weight, cross_entropy_weight, smoothing)
        total = total + weight * loss
    return total / sum(weights)
