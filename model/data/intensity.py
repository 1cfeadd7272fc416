"""Changes of intensity: blur, low resolution, gamma, scale, shift and noise, in this order.

What chance decided is in a ChannelDraw (model/data/draws.py); the image is changed in place on its own device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.data.draws import ChannelDraw

NEGLIGIBLE_VOX = 0.1  # a Gaussian so narrow leaves more than 1 - 1e-20 of a voxel in its place
ALONG = ("ij,jhw->ihw", "ij,djw->diw", "ij,dhj->dhi")


def change_intensity(image_CDHW: Tensor, draws: Sequence[ChannelDraw]) -> Tensor:
    """The image, changed in place."""
    for channel, draw in zip(image_CDHW, draws, strict=True):
        _smooth(channel, draw)
        if draw.gamma != 1:
            low, high = torch.aminmax(channel)
            extent = (high - low).clamp(min=1e-6)
            channel.sub_(low).div_(extent).pow_(draw.gamma).mul_(extent * draw.scale).add_(
                low * draw.scale + draw.shift
            )
        elif draw.scale != 1 or draw.shift:
            channel.mul_(draw.scale).add_(draw.shift)
        if draw.noise:
            generator = torch.Generator(channel.device).manual_seed(draw.noise_seed)
            channel.add_(torch.randn(channel.shape, generator=generator, device=channel.device), alpha=draw.noise)
    return image_CDHW


def _smooth(volume: Tensor, draw: ChannelDraw) -> None:
    """Blur and low resolution are linear and separable: together they are one small matrix an axis."""
    for axis, (size, blur_vox) in enumerate(zip(volume.shape, draw.blur_vox, strict=True)):
        shrunk = draw.shrunk[axis] if draw.shrunk else size
        if shrunk != size or blur_vox >= NEGLIGIBLE_VOX:
            matrix = (_sampled_down_and_up(size, shrunk) @ _gaussian(size, blur_vox)).to(volume.device)
            volume.copy_(torch.einsum(ALONG[axis], matrix, volume))


def _gaussian(size: int, deviation: float) -> Tensor:
    """(size, size): rows are normalised Gaussians, so that a constant stays what it is up to the border."""
    if deviation < NEGLIGIBLE_VOX:
        return torch.eye(size)
    at = torch.arange(size)
    weight = torch.exp(-0.5 * ((at[:, None] - at) / deviation) ** 2)
    return weight / weight.sum(1, keepdim=True)


def _sampled_down_and_up(size: int, shrunk: int) -> Tensor:
    """(size, size): linear interpolation to `shrunk` points and back."""
    if shrunk == size:
        return torch.eye(size)
    down = F.interpolate(torch.eye(size)[None], size=shrunk, mode="linear")  # (1, size, shrunk): its transpose
    return F.interpolate(down, size=size, mode="linear")[0].T
