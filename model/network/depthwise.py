"""Depth-wise 3^3 convolution of channels-last volumes, of which PyTorch's backward pass is slow everywhere.

cuDNN's in float16 took 158 ms on an H100 for (1, 32, 32, 32, 256), this one 0.1: kernels in Triton, which comes with
PyTorch's CUDA builds. oneDNN's in float32 took 48 ms on one core for (1, 12, 28, 28, 128), this one 3: the gradient of
the volume is a forward pass, and that of the kernel is found plane by plane, as oneDNN is fast with images. To PyTorch
it is an operator as any other: checkpointing and `torch.compile` know it.

B batch, D H W voxels or tokens along the axes, C channels.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

TAPS = 27
HAS_TRITON = find_spec("triton") is not None  # asked for once: `torch.compile` need not follow it


def is_needed(volume_BCDHW: Tensor) -> bool:
    """Whether a depth-wise convolution of this volume is better done here."""
    return volume_BCDHW.is_cuda and HAS_TRITON


def convolve(volume_BCDHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `torch.nn.functional.conv3d` with a kernel of 3^3, padding 1 and as many groups as channels.

    Computes in autocast's precision, sums in float32. The result lies channels-last.
    """
    kind = volume_BCDHW.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else volume_BCDHW.dtype
    volume_BDHWC = volume_BCDHW.permute(0, 2, 3, 4, 1).to(dtype).contiguous()
    taps = weight.to(dtype).flatten(1).t().contiguous()
    return depthwise(volume_BDHWC, taps, None if bias is None else bias.to(dtype), False).permute(0, 4, 1, 2, 3)


@torch.library.custom_op("medseg::depthwise", mutates_args=(), device_types="cpu")
def depthwise(volume_BDHWC: Tensor, taps: Tensor, bias: Tensor | None, flipped: bool) -> Tensor:
    """`taps`: (27, C), of the kernel along D, H, W; `flipped` takes them in reverse, as the backward pass does."""
    weight = _as_weight(taps.flip(0) if flipped else taps)
    return _channels_last(F.conv3d(_channels_first(volume_BDHWC), weight, bias, 1, 1, 1, taps.shape[1]))


@torch.library.custom_op("medseg::depthwise_taps", mutates_args=(), device_types="cpu")
def depthwise_taps(volume_BDHWC: Tensor, gradient_BDHWC: Tensor) -> Tensor:
    """The gradient of the taps, (27, C) in float32, from that of the result."""
    depth, channels = volume_BDHWC.shape[1], volume_BDHWC.shape[-1]
    planes = [torch.zeros(channels, 1, 3, 3)] * 3
    for shift in (-1, 0, 1) if depth > 1 else (0,):  # slices of the volume that meet, as images
        seen = volume_BDHWC[:, max(shift, 0) : depth + min(shift, 0)].float().flatten(0, 1)
        told = gradient_BDHWC[:, max(-shift, 0) : depth + min(-shift, 0)].float().flatten(0, 1)
        images = seen.permute(0, 3, 1, 2), (channels, 1, 3, 3), told.permute(0, 3, 1, 2)
        planes[shift + 1] = conv2d_weight(*images, stride=1, padding=1, groups=channels)
    return torch.stack(planes, 2).flatten(1).t().contiguous()


@depthwise.register_kernel("cuda")
def _(volume_BDHWC: Tensor, taps: Tensor, bias: Tensor | None, flipped: bool) -> Tensor:
    from model.network import depthwise_kernels

    return depthwise_kernels.convolved(volume_BDHWC, taps, bias, flipped)


@depthwise_taps.register_kernel("cuda")
def _(volume_BDHWC: Tensor, gradient_BDHWC: Tensor) -> Tensor:
    from model.network import depthwise_kernels

    return depthwise_kernels.gradient_of_taps(volume_BDHWC, gradient_BDHWC)


@depthwise.register_fake
def _(volume_BDHWC: Tensor, taps: Tensor, bias: Tensor | None, flipped: bool) -> Tensor:
    return torch.empty_like(volume_BDHWC)


@depthwise_taps.register_fake
def _(volume_BDHWC: Tensor, gradient_BDHWC: Tensor) -> Tensor:
    return volume_BDHWC.new_empty((TAPS, volume_BDHWC.shape[-1]), dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, bool], output: Tensor) -> None:
    volume_BDHWC, taps, bias, ctx.flipped = inputs
    ctx.save_for_backward(volume_BDHWC, taps)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, gradient_BDHWC: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
    volume_BDHWC, taps = ctx.saved_tensors
    gradient_BDHWC = gradient_BDHWC.contiguous()
    of_taps = depthwise_taps(volume_BDHWC, gradient_BDHWC).to(taps.dtype)
    of_bias = gradient_BDHWC.sum((0, 1, 2, 3)) if ctx.has_bias else None
    of_volume = depthwise(gradient_BDHWC, taps, None, not ctx.flipped)
    return of_volume, of_taps.flip(0) if ctx.flipped else of_taps, of_bias, None


depthwise.register_autograd(_backward, setup_context=_keep)


def _as_weight(taps: Tensor) -> Tensor:
    return taps.t().reshape(-1, 1, 3, 3, 3)


def _channels_first(volume_BDHWC: Tensor) -> Tensor:
    return volume_BDHWC.permute(0, 4, 1, 2, 3)


def _channels_last(volume_BCDHW: Tensor) -> Tensor:
    return volume_BCDHW.permute(0, 2, 3, 4, 1).contiguous()
