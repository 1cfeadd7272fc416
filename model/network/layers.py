"""Layers that the encoder and the decoder share.

Volumes of tokens are channels-last, `BDHWE`: a linear layer applies to them as they are, and a permuted view of them is
what PyTorch calls `channels_last_3d`, the layout in which CPU and GPU convolutions are fastest.

B batch, C channels of an image or of a convolution, D H W voxels or tokens along the axes, E embedding, N tokens,
A attention heads, F features of one head.

Some optimizers step along weights as matrices, outputs by inputs. A module's `row_axes` is how many leading axes of its
weight count the outputs: 1 where it does not say, 0 where the weight is not to be taken for a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network import cpu_convolution, depthwise
from model.network.norms import HeadNorm, TokenNorm
from model.network.pooling import pool

PART_TOKENS = 2048  # queries that attend together: enough work for a GPU's multiprocessor, and parts enough for all


class Conv3d(nn.Conv3d):
    """A 3^3 convolution with padding 1; the stride is an argument of the call: one set of weights for any spacing."""

    def __init__(self, in_channels: int, out_channels: int, groups: int = 1, bias: bool = True):
        super().__init__(in_channels, out_channels, 3, padding=1, groups=groups, bias=bias)
        self.row_axes = 1 if in_channels > groups else 0

    def forward(self, volume_BCDHW: Tensor, stride: Sequence[int] = (1, 1, 1)) -> Tensor:
        stride = tuple(stride)
        if self.groups > 1 and depthwise.is_needed(volume_BCDHW):
            return depthwise.convolve(volume_BCDHW, self.weight, self.bias)
        if cpu_convolution.is_needed(volume_BCDHW):
            return cpu_convolution.convolve(volume_BCDHW, self.weight, self.bias, stride, self.groups)
        return F.conv3d(volume_BCDHW, self.weight, self.bias, stride, 1, 1, self.groups)


def convolve(conv: nn.Module, volume_BDHWE: Tensor, stride: Sequence[int] = (1, 1, 1)) -> Tensor:
    """Apply a `Conv3d` to a channels-last volume of tokens."""
    return conv(volume_BDHWE.permute(0, 4, 1, 2, 3), stride).permute(0, 2, 3, 4, 1)


class Upsample(nn.Module):
    """Learned sub-pixel upsampling: every token becomes a block of `stride` tokens.

    The weights describe a block of 2 x 2 x 2; along an axis that is not upsampled their mean over that axis is used.
    """

    row_axes = 4

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, 2, 2, out_dim, in_dim))
        self.bias = nn.Parameter(torch.empty(out_dim))

    def fill_parameters(self, fill: FillNormal) -> None:
        fill(self.weight, self.weight.shape[-1] ** -0.5)
        nn.init.zeros_(self.bias)

    def forward(self, volume_BDHWE: Tensor, stride: Sequence[int], size: Sequence[int]) -> Tensor:
        """Upsample by `stride` (1 or 2 per axis), then cut the surplus of an odd size off at the end."""
        weight: Tensor = self.weight
        for axis in range(3):
            if stride[axis] == 1:
                weight = weight.mean(axis, keepdim=True)
        batch, depth, height, width, _ = volume_BDHWE.shape
        sd, sh, sw, out_dim, in_dim = weight.shape
        blocks = F.linear(volume_BDHWE, weight.reshape(-1, in_dim), self.bias.repeat(sd * sh * sw))
        blocks = blocks.view(batch, depth, height, width, sd, sh, sw, out_dim).permute(0, 1, 4, 2, 5, 3, 6, 7)
        volume = blocks.reshape(batch, depth * sd, height * sh, width * sw, out_dim)
        return volume[:, : size[0], : size[1], : size[2]]


class Attention(nn.Module):
    """Multi-head attention of a volume to a set of tokens, with RMS-normalised queries and keys.

    The norm bounds every attention logit by sqrt(F) * |gain|^2: neither FP16 nor a long run can overflow the softmax.
    """

    def __init__(self, dim: int, memory_dim: int, head_dim: int):
        super().__init__()
        self.num_heads = dim // head_dim
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(memory_dim, 2 * dim, bias=False)
        self.query_norm = HeadNorm(head_dim)
        self.key_norm = HeadNorm(head_dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, volume_BDHWE: Tensor, memory_BNE: Tensor) -> Tensor:
        query_BANF = self._split_heads(self.query(volume_BDHWE).flatten(1, 3))
        key, value = self.key_value(memory_BNE).chunk(2, dim=-1)
        key_BANF, value_BANF = self._split_heads(key), self._split_heads(value)
        query_BANF, key_BANF = self.query_norm(query_BANF), self.key_norm(key_BANF)
        mixed_BANF = attend(query_BANF, key_BANF, value_BANF, slabs(volume_BDHWE.shape[1:4]))
        return self.output(mixed_BANF.transpose(1, 2).reshape(volume_BDHWE.shape))

    def _split_heads(self, tokens_BNE: Tensor) -> Tensor:
        return tokens_BNE.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def attend(query_BANF: Tensor, key_BANF: Tensor, value_BANF: Tensor, parts: int) -> Tensor:
    """Attention with the queries in so many equal `parts`, as if they were samples of the batch with the same keys.

    The same function. A GPU's kernel for the backward pass is divided over samples, heads and keys, and not over
    queries: a volume of many queries and few keys would leave most of the GPU idle.
    """
    if parts == 1:
        return F.scaled_dot_product_attention(query_BANF, key_BANF, value_BANF)
    batch, heads, _, features = query_BANF.shape
    query = query_BANF.unflatten(2, (parts, -1)).transpose(1, 2).flatten(0, 1)
    key, value = (each.unsqueeze(1).expand(-1, parts, -1, -1, -1).flatten(0, 1) for each in (key_BANF, value_BANF))
    mixed = F.scaled_dot_product_attention(query, key, value).unflatten(0, (batch, parts))
    return mixed.transpose(1, 2).reshape(batch, heads, -1, features)


def slabs(size: Sequence[int]) -> int:
    """The most equal slabs along the first axis that a grid can be cut into with at least PART_TOKENS tokens each."""
    most = max(1, math.prod(size) // PART_TOKENS)
    return next(parts for parts in range(min(most, size[0]), 0, -1) if size[0] % parts == 0)


class FeedForward(nn.Module):
    """Two linear layers with a depth-wise 3^3 convolution between them, which also tells the tokens where they are."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.expand = nn.Linear(dim, hidden_dim)
        self.mix = Conv3d(hidden_dim, hidden_dim, groups=hidden_dim)
        self.output = nn.Linear(hidden_dim, dim)

    def forward(self, volume_BDHWE: Tensor) -> Tensor:
        hidden_BDHWE = self.expand(volume_BDHWE)
        return self.output(F.gelu(hidden_BDHWE + convolve(self.mix, hidden_BDHWE)))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention to pooled tokens (its own, or a memory given), then the feed-forward layer.

    The unit of activation checkpointing, of compiling and of sharding. Chance is drawn outside (`draw_depth`): the
    block is a function of its inputs, the same one for all blocks of a stage.
    """

    def __init__(self, dim: int, head_dim: int, hidden_dim: int, memory_dim: int | None = None):
        super().__init__()
        self.attention_norm = TokenNorm(dim)
        self.attention = Attention(dim, memory_dim or dim, head_dim)
        self.feed_forward_norm = TokenNorm(dim)
        self.feed_forward = FeedForward(dim, hidden_dim)

    def forward(
        self,
        volume_BDHWE: Tensor,
        grid: Sequence[int],
        memory_BNE: Tensor | None = None,
        depth: Tensor | None = None,
    ) -> Tensor:
        """Attend to `memory_BNE`; without it, to the volume itself pooled to `grid`. `depth`: `draw_depth`'s."""
        normed_BDHWE = self.attention_norm(volume_BDHWE)
        if memory_BNE is None:
            memory_BNE = pool(normed_BDHWE, grid).flatten(1, 3)
        attended_BDHWE = self.attention(normed_BDHWE, memory_BNE)
        volume_BDHWE = volume_BDHWE + (attended_BDHWE if depth is None else attended_BDHWE * depth[0])
        mixed_BDHWE = self.feed_forward(self.feed_forward_norm(volume_BDHWE))
        return volume_BDHWE + (mixed_BDHWE if depth is None else mixed_BDHWE * depth[1])


def draw_depth(volume_BDHWE: Tensor, rate: float) -> Tensor:
    """Stochastic depth (Huang et al. 2016) for a block: what the two residual branches of every sample are multiplied
    by, (2, B, 1, 1, 1, 1); 0 with probability `rate`, else so much that the mean is 1."""
    drawn = torch.rand((2, len(volume_BDHWE), 1, 1, 1, 1), device=volume_BDHWE.device)
    return ((drawn >= rate) / (1 - rate)).to(volume_BDHWE.dtype)


class FullResolution(nn.Module):
    """A step on full-resolution voxels: its activations are better computed twice than kept."""


FillNormal = Callable[[Tensor, float], None]  # in place, with mean 0 and this standard deviation


@torch.no_grad()
def fill_normal(parameter: Tensor, std: float) -> None:
    parameter.normal_(std=std)


class BlockNetwork(nn.Module):
    """A network that is divided at its blocks: the boundaries of activation checkpointing and of sharding."""

    def blocks(self) -> Iterator[TransformerBlock]:
        """In order of use."""
        return (module for module in self.modules() if isinstance(module, TransformerBlock))

    def full_resolution(self) -> Iterator[FullResolution]:
        """The steps on full-resolution voxels, in the order in which they were built."""
        return (module for module in self.modules() if isinstance(module, FullResolution))

    def init_weights(self, fill: FillNormal = fill_normal) -> None:
        """Fill the parameters wherever they are, one after the other. Another `fill` is for those that are no whole
        tensors."""
        initialise(self, residual_layers=2 * sum(1 for _ in self.blocks()), fill=fill)


def initialise(module: nn.Module, residual_layers: int, fill: FillNormal) -> None:
    """Fill the parameters of one module in place; also after `to_empty()`.

    Variance-preserving for every width (standard deviation 1 / sqrt(fan in)); the last layer of each residual branch is
    divided by sqrt(`residual_layers`), so that the residual stream keeps its scale at any depth (Radford et al. 2019).
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear | Conv3d):
            fan_in = child.weight[0].numel()
            gain = residual_layers**-0.5 if name.endswith(".output") else 1.0
            fill(child.weight, gain / math.sqrt(fan_in))
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Embedding):
            fill(child.weight, 1.0)
        elif hasattr(type(child), "fill_parameters"):  # not its wrapper, which has the attributes of what it wraps
            child.fill_parameters(fill)
        elif hasattr(type(child), "reset_parameters"):
            child.reset_parameters()
