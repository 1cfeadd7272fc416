"""The depth-wise convolution's kernels in Triton. Imported on a GPU only.

A program takes BLOCK voxels in a row and CHANNELS channels; of the 27 neighbours that it reads, most are in a cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, CHANNELS = 32, 64
ROWS = 32  # the power of 2 from 27 taps on
PROGRAMS = 1056  # eight on each of an H100's multiprocessors


def convolved(volume_BDHWC: Tensor, taps: Tensor, bias: Tensor | None, flipped: bool) -> Tensor:
    """As `depthwise.depthwise`."""
    out = torch.empty_like(volume_BDHWC)
    _, depth, height, width, channels = volume_BDHWC.shape
    voxels = volume_BDHWC.numel() // channels
    blocks = (triton.cdiv(voxels, BLOCK), triton.cdiv(channels, CHANNELS))
    _convolve[blocks](
        volume_BDHWC, taps, taps if bias is None else bias, out, voxels, depth, height, width, channels,
        flipped=flipped, has_bias=bias is not None, BLOCK=BLOCK, CHANNELS=CHANNELS,
    )  # fmt: skip
    return out


def gradient_of_taps(volume_BDHWC: Tensor, gradient_BDHWC: Tensor) -> Tensor:
    """As `depthwise.depthwise_taps`. Each program sums over a part of the voxels, always in the same order."""
    _, depth, height, width, channels = volume_BDHWC.shape
    voxels = volume_BDHWC.numel() // channels
    across, blocks = triton.cdiv(channels, CHANNELS), triton.cdiv(voxels, BLOCK)
    steps = triton.cdiv(blocks, max(1, PROGRAMS // across))
    programs = triton.cdiv(blocks, steps)
    parts = torch.empty(programs, ROWS, channels, device=volume_BDHWC.device, dtype=torch.float32)
    _sum_for_taps[(programs, across)](
        volume_BDHWC, gradient_BDHWC, parts, voxels, depth, height, width, channels, steps,
        BLOCK=BLOCK, CHANNELS=CHANNELS, ROWS=ROWS,
    )  # fmt: skip
    return parts[:, :27].sum(0)


@triton.jit
def _neighbour(volume, n, d, h, w, inside, c, known, tap, depth, height, width, channels):  # type: ignore[no-untyped-def]
    """What lies at this tap of each voxel `n`; 0 outside the volume."""
    i, j, k = tap // 9 - 1, (tap // 3) % 3 - 1, tap % 3 - 1
    there = inside & (d + i >= 0) & (d + i < depth) & (h + j >= 0) & (h + j < height) & (w + k >= 0) & (w + k < width)
    at = n + (i * height + j) * width + k
    return tl.load(volume + at[:, None] * channels + c[None, :], mask=there[:, None] & known[None, :], other=0.0)


@triton.jit
def _convolve(  # type: ignore[no-untyped-def]
    volume, taps, bias, out, voxels, depth, height, width, channels,
    flipped: tl.constexpr, has_bias: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside, known = n < voxels, c < channels
    d, h, w = (n // (width * height)) % depth, (n // width) % height, n % width
    total = tl.zeros((BLOCK, CHANNELS), tl.float32)
    for tap in range(27):
        found = _neighbour(volume, n, d, h, w, inside, c, known, tap, depth, height, width, channels)
        factor = tl.load(taps + (26 - tap if flipped else tap) * channels + c, mask=known, other=0.0)
        total += found.to(tl.float32) * factor.to(tl.float32)[None, :]
    if has_bias:
        total += tl.load(bias + c, mask=known, other=0.0).to(tl.float32)[None, :]
    place = n[:, None] * channels + c[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside[:, None] & known[None, :])


@triton.jit
def _sum_for_taps(  # type: ignore[no-untyped-def]
    volume, gradient, parts, voxels, depth, height, width, channels, steps,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known, rows = c < channels, tl.arange(0, ROWS)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    first = tl.program_id(0).to(tl.int64) * steps * BLOCK
    for step in range(steps):
        n = first + step * BLOCK + tl.arange(0, BLOCK)
        inside = n < voxels
        d, h, w = (n // (width * height)) % depth, (n // width) % height, n % width
        place = n[:, None] * channels + c[None, :]
        upstream = tl.load(gradient + place, mask=inside[:, None] & known[None, :], other=0.0).to(tl.float32)
        for tap in range(27):
            found = _neighbour(volume, n, d, h, w, inside, c, known, tap, depth, height, width, channels)
            of_tap = tl.sum(found.to(tl.float32) * upstream, 0)
            total += tl.where(rows[:, None] == tap, of_tap[None, :], 0.0)
    place = (tl.program_id(0) * ROWS + rows[:, None]) * channels + c[None, :]
    tl.store(parts + place, total, mask=known[None, :])
