"""Plain patch embeddings, to compare the network's own with: same interface, same widths, nothing else changed.

strided        ViT's: non-overlapping patches of 4^3 (or 1 along a thick axis) by one convolution; no skips
overlapping    the same three overlapping convolutions as ours, but told neither modality nor spacing, and channels
               merged by a plain mean over those present
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.config import NetworkConfig
from model.network.layers import Conv3d
from model.network.norms import VolumeNorm


class StridedEmbedding(nn.Module):
    """One linear map of each patch of voxels. The decoder's skips are zero: there are no finer features to give."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.dims = config.stem_dims
        self.projection = nn.Linear(4**3, config.widths[0])

    def forward(
        self, image_BCDHW: Tensor, modality_BC: Tensor, spacing_mm: Sequence[float], strides: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        volume = mean_of_present(image_BCDHW, modality_BC)
        patch = [first * second for first, second in zip(strides[0], strides[1], strict=True)]
        size = volume.shape[2:]
        padding = [pad for n, p in zip(reversed(size), reversed(patch), strict=True) for pad in (0, -n % p)]
        padded = F.pad(volume, padding)
        for axis, step in enumerate(patch, start=2):
            padded = padded.unfold(axis, step, step)  # (B, 1, d, h, w, patch D, patch H, patch W)
            if step != 4:  # a thick axis has patches of one voxel: repeat it, the weights are for four
                padded = padded.repeat_interleave(4 // step, dim=-1)
        tokens_BDHWE = self.projection(padded.squeeze(1).flatten(4))
        half = [-(-n // step) for n, step in zip(size, strides[0], strict=True)]
        full = volume.new_zeros(len(volume), self.dims[0], *size)
        return full, volume.new_zeros(len(volume), self.dims[1], *half), tokens_BDHWE


class OverlappingEmbedding(nn.Module):
    """Convolution, norm and GELU at strides 1 and 2, a third convolution to the first tokens."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        dims = (1, *config.stem_dims)
        self.convs = nn.ModuleList(Conv3d(a, b, bias=False) for a, b in itertools.pairwise(dims))
        self.norms = nn.ModuleList(VolumeNorm(dim) for dim in config.stem_dims)
        self.stem_quarter = Conv3d(config.stem_dims[1], config.widths[0])

    def forward(
        self, image_BCDHW: Tensor, modality_BC: Tensor, spacing_mm: Sequence[float], strides: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        volume = mean_of_present(image_BCDHW, modality_BC)
        full = F.gelu(self.norms[0](self.convs[0](volume)))
        half = F.gelu(self.norms[1](self.convs[1](full, strides[0])))
        return full, half, self.stem_quarter(half, strides[1]).permute(0, 2, 3, 4, 1)


def mean_of_present(image_BCDHW: Tensor, modality_BC: Tensor) -> Tensor:
    present = (modality_BC > 0)[:, :, None, None, None]
    summed = torch.where(present, image_BCDHW, 0.0).sum(1, keepdim=True)
    return summed / present.sum(1, keepdim=True).clamp(min=1)


EMBEDDINGS = {"strided": StridedEmbedding, "overlapping": OverlappingEmbedding}
