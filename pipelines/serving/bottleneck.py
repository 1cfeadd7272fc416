"""What a network makes of a scan where it sees most of it at once: its encoder's deepest features, averaged.

    with Bottleneck(network) as seen: ...          while windows of one scan go through the network
    seen.mean                                      (E,) float32
    mean_of(network, image, ...)                   the same without a decoder: about a sixth of the time

Each run of the network counts the same: every window, and with flips every view of it. E embedding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from model.network.config import spacings_after, strides
from model.network.medsegformer import MedSegFormer
from model.tasks.cast_weights import cast_once
from model.tasks.layout import Layout


@dataclass
class Bottleneck:
    """Listens to the network's encoder, from whatever thread it runs in. Runs that are not finite, which inference
    repeats, are left out."""

    network: MedSegFormer
    heard: list[Tensor] = field(default_factory=list)
    hooks: list[RemovableHandle] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.hooks = [self.network.encoder.register_forward_hook(self._take)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hooks.pop().remove()

    @property
    def mean(self) -> np.ndarray:
        """(E,), empty if nothing finite went through."""
        pooled_NE = torch.cat(self.heard) if self.heard else torch.zeros(0, 0)
        finite_NE = pooled_NE[pooled_NE.isfinite().all(1)]
        return finite_NE.mean(0).float().cpu().numpy() if len(finite_NE) else np.zeros(0, np.float32)

    def _take(self, _encoder: nn.Module, _given: object, features_BDHWE: list[Tensor]) -> None:
        self.heard.append(features_BDHWE[-1].float().mean((1, 2, 3)).double())


@torch.inference_mode()
def mean_of(
    network: MedSegFormer,
    image_CDHW: Tensor,
    modality_C: Tensor,
    spacing_mm: tuple[float, float, float],
    window: Sequence[int],
    overlap: float,
    precision: torch.dtype = torch.float32,
    flips: Sequence[int] = (),
) -> np.ndarray:
    """What a `Bottleneck` hears while `model.tasks.inference.blocks` goes over a scan."""
    steps, spacings_mm = strides(spacing_mm), spacings_after(spacing_mm)[2:]
    cast: Any = cast_once(network, precision, modality_C.device)
    with Bottleneck(network) as seen, torch.autocast(modality_C.device.type, precision, precision != torch.float32):
        for patch in _windows(image_CDHW, Layout.of(image_CDHW.shape[1:], window, overlap)):
            for count in range(len(flips) + 1):
                for axes in combinations(flips, count):
                    view = patch.to(modality_C.device).flip([axis + 2 for axis in axes])
                    _, _, tokens_BDHWE = cast.embedding(view, modality_C[None], spacing_mm, steps)
                    cast.encoder(tokens_BDHWE, spacings_mm, steps[2:])
    return seen.mean


def _windows(image_CDHW: Tensor, layout: Layout) -> Iterator[Tensor]:
    """(1, C, D, H, W) each, zeros around the scan."""
    for at in layout.windows():
        lines = list(zip(layout.corner(at), layout.lines, strict=True))
        patch = image_CDHW[(slice(None), *(slice(corner, corner + line.reach) for corner, line in lines))]
        missing = [n for _, each in reversed(lines) for n in (each.before, each.window - each.reach - each.before)]
        yield F.pad(patch, missing)[None]
