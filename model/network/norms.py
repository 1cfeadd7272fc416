"""Norms that read and write the precision of their input, and sum in float32.

Autocast would have them write float32 on a GPU, which the layer behind reads and writes again in 16 bit: on a large
volume these passes over memory cost more than the norm.

B batch, C channels, D H W voxels or tokens along the axes, E embedding, N tokens, A heads, F features of one head.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5
AUTOCASTING = ("cpu", "cuda")


class TokenNorm(nn.LayerNorm):
    """Layer norm that reads and writes its input's precision."""

    def forward(self, volume_BDHWE: Tensor) -> Tensor:
        with in_own_precision(volume_BDHWE):
            weight, bias = self.weight.to(volume_BDHWE.dtype), self.bias.to(volume_BDHWE.dtype)
            return F.layer_norm(volume_BDHWE, self.normalized_shape, weight, bias, self.eps)


class HeadNorm(nn.Module):
    """RMS norm over the features of a head; the square of a large float16, which is none, is taken in float32."""

    def __init__(self, head_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(head_dim))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, heads_BANF: Tensor) -> Tensor:
        with in_own_precision(heads_BANF):
            return F.rms_norm(heads_BANF, self.weight.shape, self.weight.to(heads_BANF.dtype), eps=1e-6)


class VolumeNorm(nn.Module):
    """Group norm of a channels-first volume, also of a single voxel; statistics over the volume."""

    def __init__(self, dim: int, group_size: int = 4):
        super().__init__()
        self.num_groups = max(1, dim // group_size)
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, volume_BCDHW: Tensor) -> Tensor:
        return _group_norm(volume_BCDHW, self.num_groups, self.weight, self.bias)

    def modulated(self, volume_BCDHW: Tensor, scale_BC: Tensor, shift_BC: Tensor) -> Tensor:
        """`scale * norm(volume) + shift`, in the one pass of the norm: the samples become groups of a single sample."""
        weight = (self.weight * scale_BC).flatten()
        bias = (self.bias * scale_BC + shift_BC).flatten()
        samples_as_groups = volume_BCDHW.flatten(0, 1).unsqueeze(0)
        groups = self.num_groups * len(volume_BCDHW)
        return _group_norm(samples_as_groups, groups, weight, bias).view_as(volume_BCDHW)


def _group_norm(volume_BCDHW: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    with in_own_precision(volume_BCDHW):
        weight, bias = weight.to(volume_BCDHW.dtype), bias.to(volume_BCDHW.dtype)
        if volume_BCDHW.is_cuda and not torch.compiler.is_compiling():
            found: Tensor = GroupNormOfFew.apply(volume_BCDHW, groups, weight, bias)
            return found
        return torch.group_norm(volume_BCDHW, groups, weight, bias, EPSILON)


class GroupNormOfFew(torch.autograd.Function):
    """Group norm with the sums of few large groups shared by the whole GPU.

    PyTorch's own gives each group to one block of threads: 8 groups of 128^3 x 4 voxels took 7.7 ms on an H100, where
    the passes over memory take 0.1. Generated code (`torch.compile`) shares by itself. The variance is the mean square
    less the squared mean, in float32: relative to it the error is some 1e-6 times 1 + mean^2 / variance.
    """

    @staticmethod
    def forward(ctx: Any, volume_BCDHW: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
        volume_BCN = volume_BCDHW.contiguous().flatten(2)
        batch, channels, _ = volume_BCN.shape
        rows = volume_BCN.reshape(batch * groups, -1)
        mean = rows.sum(1, dtype=torch.float32) / rows.shape[1]
        square = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).square() / rows.shape[1]
        deviation_inverse = ((square - mean.square()).clamp(min=0) + EPSILON).rsqrt()
        mean_BG, inverse_BG = mean.view(batch, groups), deviation_inverse.view(batch, groups)
        kept = (each.to(volume_BCN.dtype) for each in (mean_BG, inverse_BG))  # as its backward pass wants them
        ctx.save_for_backward(volume_BCN, *kept, weight)
        mean_BC, inverse_BC = (each.repeat_interleave(channels // groups, dim=1) for each in (mean_BG, inverse_BG))
        scale_BC = inverse_BC * weight
        shift_BC = bias - mean_BC * scale_BC
        scale, shift = (each.to(volume_BCN.dtype).unsqueeze(2) for each in (scale_BC, shift_BC))
        return torch.addcmul(shift, volume_BCN, scale).view_as(volume_BCDHW)

    @staticmethod
    def backward(ctx: Any, gradient_BCDHW: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        volume_BCN, mean_BG, inverse_BG, weight = ctx.saved_tensors
        batch, channels, voxels = volume_BCN.shape
        of_volume, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
            gradient_BCDHW.contiguous().flatten(2), volume_BCN, mean_BG, inverse_BG, weight,
            batch, channels, voxels, mean_BG.shape[1], (True, True, True),
        )  # fmt: skip
        return of_volume.view_as(gradient_BCDHW), None, of_weight, of_bias


def in_own_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """A norm within it reads and writes what it is given, and sums in float32; autocast has GPUs write float32."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if kind in AUTOCASTING else nullcontext()
