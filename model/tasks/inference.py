"""From one preprocessed scan to structure probabilities: a sliding window with Gaussian blending."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.tasks.losses import merge


@torch.inference_mode()
def sliding_window(
    network: nn.Module,
    image_CDHW: Tensor,
    modality_C: Tensor,
    spacing_mm: tuple[float, float, float],
    groups: Sequence[Sequence[int]],
    window: Sequence[int],
    overlap: float = 0.5,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Probabilities (G, D, H, W), float32, of each of `groups` of classes; the first holds background.

    Windows overlap by `overlap` of their size and are
    blended with a Gaussian of an eighth of the window (Isensee et al. 2021). A scan smaller than the window is padded
    with zeros, as in training. `precision`: bfloat16 or float16 run under autocast.
    """
    size = image_CDHW.shape[1:]
    padding = [max(0, want - have) for want, have in zip(window, size, strict=True)]
    before = [pad // 2 for pad in padding]
    flat = [x for pad, low in zip(reversed(padding), reversed(before), strict=True) for x in (low, pad - low)]
    image = F.pad(image_CDHW, flat)
    weight = gaussian(window).to(image.device)
    total = torch.zeros(len(groups), *image.shape[1:], device=image.device)
    weights = torch.zeros(image.shape[1:], device=image.device)
    for corner in corners(image.shape[1:], window, overlap):
        box = tuple(slice(at, at + n) for at, n in zip(corner, window, strict=True))
        with torch.autocast(image.device.type, precision, enabled=precision != torch.float32):
            logits = network(image[(slice(None), *box)][None], modality_C[None], spacing_mm)
        probability = merge(logits.float(), groups).softmax(1)[0]
        total[(slice(None), *box)] += probability * weight
        weights[box] += weight
    inside = tuple(slice(low, low + n) for low, n in zip(before, size, strict=True))
    return total.div_(weights)[(slice(None), *inside)]  # in place: of 28 classes a second copy is gigabytes


def corners(size: Sequence[int], window: Sequence[int], overlap: float) -> Iterator[tuple[int, ...]]:
    """First voxels of evenly spread windows that cover `size`, neighbours overlapping by at least `overlap`."""
    starts = []
    for length, extent in zip(size, window, strict=True):
        count = 1 + int(np.ceil((length - extent) / max(1.0, extent * (1 - overlap))))
        starts.append(np.linspace(0, length - extent, count).round().astype(int).tolist())
    return product(*starts)


def gaussian(window: Sequence[int], width: float = 0.125) -> Tensor:
    """Separable Gaussian, 1 in the middle, never below 1e-3 so that a corner seen once keeps its own prediction."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n * width)) ** 2) for n in window]
    return torch.einsum("d,h,w->dhw", *axes).clamp(min=1e-3)
