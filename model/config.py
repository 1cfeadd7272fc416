"""Sizes of the network: presets, closed-form parameter counts and FLOPs, strides. Imports no torch.

The closed forms are held equal to the built network by tests; `medseg model summary` and the launch certificate use
them. `python -m model.config` prints the table of presets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf, prod
from typing import Any

# What a channel shows. Position 0 marks an absent channel. Append only: the position is part of every trained model.
MODALITIES: tuple[str, ...] = (
    "absent",
    "CT",
    "MR",  # sequence not stated
    "T1",
    "T1CE",
    "T2",
    "FLAIR",
    "CINE",
    "PD",
    "DWI",
    "ADC",
    "SWI",
    "LGE",
    "DCE",
    "PET",
    "US",
)

# A training patch is best a multiple of this on every axis (a smaller remainder wastes work on partial tokens).
# The network itself takes any size.
ALIGNMENT = 4

# An axis is not downsampled while its spacing is more than this times the finest current spacing.
ANISOTROPY_LIMIT = 2.0

NUM_DOWNSAMPLINGS = 5  # strides 2, 4 (embedding), 8, 16, 32 (encoder)


@dataclass(frozen=True)
class NetworkConfig:
    """Widths and depths. Every width of a stage or decoder level is a multiple of `head_dim`."""

    stem_dims: tuple[int, int]  # features at strides 1 and 2
    widths: tuple[int, int, int, int]  # encoder stages at strides 4, 8, 16, 32
    depths: tuple[int, int, int, int]
    decoder_widths: tuple[int, int, int, int]  # decoder levels at strides 4, 8, 16, 32
    memory_dim: int
    head_dim: int = 32
    feed_forward_ratio: float = 2.0
    key_tokens: int = 512  # upper bound on the pooled keys of self-attention
    memory_tokens: int = 512  # upper bound on the tokens of each scale in the decoder's memory
    condition_dim: int = 32  # modality and spacing
    drop_path: float = 0.0  # stochastic depth rate of the last block; grows linearly from 0
    auxiliary_heads: int = 2  # deep supervision at strides 2 and 4

    def __post_init__(self) -> None:
        for name in ("widths", "decoder_widths"):
            for width in getattr(self, name):
                if width % self.head_dim:
                    raise ValueError(f"{name} {getattr(self, name)} must be multiples of head_dim {self.head_dim}")
        if not 0 <= self.auxiliary_heads <= 2:
            raise ValueError(f"auxiliary_heads {self.auxiliary_heads} must be 0, 1 (stride 2) or 2 (strides 2 and 4)")

    def hidden_dim(self, width: int) -> int:
        return round(width * self.feed_forward_ratio)

    @property
    def head_dims(self) -> tuple[int, ...]:
        """Width of the features that each output is read from, finest first."""
        return (*self.stem_dims, self.decoder_widths[0])[: 1 + self.auxiliary_heads]

    @property
    def drop_path_rates(self) -> tuple[float, ...]:
        count = sum(self.depths)
        return tuple(self.drop_path * index / max(1, count - 1) for index in range(count))


PRESETS: dict[str, NetworkConfig] = {
    "nano": NetworkConfig(
        stem_dims=(8, 16),
        widths=(32, 32, 64, 96),
        depths=(1, 1, 1, 1),
        decoder_widths=(32, 32, 64, 64),
        memory_dim=64,
        head_dim=16,
        key_tokens=64,
        memory_tokens=64,
        condition_dim=16,
    ),
    "tiny": NetworkConfig(
        stem_dims=(16, 32),
        widths=(64, 96, 160, 256),
        depths=(1, 1, 2, 2),
        decoder_widths=(64, 96, 128, 160),
        memory_dim=128,
        key_tokens=64,
        memory_tokens=64,
    ),
    "small": NetworkConfig(
        stem_dims=(24, 48),
        widths=(96, 192, 384, 768),
        depths=(2, 2, 5, 2),
        decoder_widths=(96, 192, 256, 384),
        memory_dim=256,
        drop_path=0.05,
    ),
    "base": NetworkConfig(
        stem_dims=(32, 64),
        widths=(128, 256, 512, 1024),
        depths=(2, 3, 12, 8),
        decoder_widths=(128, 256, 512, 512),
        memory_dim=512,
        head_dim=64,
        drop_path=0.1,
    ),
    "large": NetworkConfig(
        stem_dims=(32, 64),
        widths=(192, 384, 1024, 2048),
        depths=(3, 4, 36, 36),
        decoder_widths=(192, 384, 1024, 1024),
        memory_dim=1024,
        head_dim=64,
        feed_forward_ratio=1.5,
        drop_path=0.2,
    ),
    "xl": NetworkConfig(
        stem_dims=(32, 64),
        widths=(256, 512, 2048, 4096),
        depths=(3, 6, 64, 37),
        decoder_widths=(256, 512, 2048, 4096),
        memory_dim=4096,
        head_dim=128,
        feed_forward_ratio=1.5,
        drop_path=0.2,
    ),
}


def strides(spacing_mm: Sequence[float]) -> tuple[tuple[int, int, int], ...]:
    """The stride of each of the five downsamplings, per axis, that brings voxels of `spacing_mm` nearest to cubes.

    Cubic voxels: (2, 2, 2) five times. (10, 1.5, 1.5): (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2).
    """
    current = _positive(spacing_mm)
    steps = []
    for _ in range(NUM_DOWNSAMPLINGS):
        finest = min(current)
        d, h, w = (1 if mm > ANISOTROPY_LIMIT * finest else 2 for mm in current)
        steps.append((d, h, w))
        current = (current[0] * d, current[1] * h, current[2] * w)
    return tuple(steps)


def spacings_after(spacing_mm: Sequence[float]) -> tuple[tuple[float, float, float], ...]:
    """The voxel spacing at full resolution and after each downsampling, six in all."""
    spacings = [_positive(spacing_mm)]
    for d, h, w in strides(spacing_mm):
        spacings.append((spacings[-1][0] * d, spacings[-1][1] * h, spacings[-1][2] * w))
    return tuple(spacings)


def pooled_grid(size: Sequence[int], spacing_mm: Sequence[float], max_tokens: int) -> tuple[int, int, int]:
    """The grid of at most `max_tokens` cells, as near to cubes in millimetres as the volume's own grid allows."""
    cell_mm = min(spacing_mm)
    while True:
        d, h, w = (max(1, min(n, round(n * mm / cell_mm))) for n, mm in zip(size, spacing_mm, strict=True))
        if d * h * w <= max_tokens:
            return d, h, w
        cell_mm *= 1.05


def parameter_counts(config: NetworkConfig, num_classes: int) -> dict[str, int]:
    """Parameters by part; their sum is the size of the network."""
    full, half = config.stem_dims
    condition = config.condition_dim
    levels = config.decoder_widths[:-1]
    return {
        "embedding": (
            (len(MODALITIES) - 1) * condition
            + _linear(condition + 3, condition)
            + sum(_conv(a, b) + 2 * b + _linear(condition, 2 * b) + b * b for a, b in ((1, full), (full, half)))
            + _conv(half, config.widths[0], bias=True)
        ),
        "self-attention": sum(
            depth * _attention(width, width, config.head_dim)
            for width, depth in zip(config.widths, config.depths, strict=True)
        ),
        "encoder feed-forward": sum(
            depth * _feed_forward(width, config.hidden_dim(width))
            for width, depth in zip(config.widths, config.depths, strict=True)
        ),
        "encoder downsampling": sum(_conv(fine, coarse, bias=True) for fine, coarse in pairwise(config.widths)),
        "encoder norms": sum(
            2 * width * (2 * depth + 1) for width, depth in zip(config.widths, config.depths, strict=True)
        ),
        "cross-attention": sum(_attention(width, config.memory_dim, config.head_dim) for width in levels),
        "feature projections": (
            sum(_linear(width, config.memory_dim) for width in config.widths)
            + sum(_linear(width, level) for width, level in zip(config.widths, config.decoder_widths, strict=True))
            + sum(_upsample(a, b) for b, a in pairwise(config.decoder_widths))
        ),
        "decoder feed-forward": sum(_feed_forward(width, config.hidden_dim(width)) for width in levels),
        "decoder norms": 2 * config.memory_dim + sum(4 * width for width in levels),
        "refinement": sum(
            _upsample(a, b) + _conv(b, b) + 2 * b for a, b in ((config.decoder_widths[0], half), (half, full))
        ),
        "heads": sum(_linear(dim, num_classes) for dim in config.head_dims),
    }


def attention_and_projection_share(config: NetworkConfig, num_classes: int) -> float:
    """Share of all parameters in self-attention, cross-attention and the decoder's feature projections, in [0, 1]."""
    counts = parameter_counts(config, num_classes)
    return (counts["self-attention"] + counts["cross-attention"] + counts["feature projections"]) / sum(counts.values())


def forward_flops(
    config: NetworkConfig,
    num_classes: int,
    shape: Sequence[int],
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    channels: int = 1,
) -> int:
    """Floating-point operations (two per multiply-add) of products and convolutions, one volume's forward pass."""
    sizes = sizes_after(shape, spacing_mm)
    steps, spacings = strides(spacing_mm), spacings_after(spacing_mm)
    voxels = [prod(size) for size in sizes]
    full, half = config.stem_dims
    condition = config.condition_dim
    total = channels * _linear_ops(condition + 3, condition)
    for index, (before, after) in enumerate(((1, full), (full, half))):
        total += channels * (27 * before * after * voxels[index] + condition * 2 * after)
        total += channels * after * after * voxels[index] if channels > 1 else 0
    total += 27 * half * config.widths[0] * voxels[2]
    memory_tokens = 0
    for index, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        size, tokens, spacing = sizes[index + 2], voxels[index + 2], spacings[index + 2]
        if index > 0:
            total += 27 * config.widths[index - 1] * width * tokens
        grid = pooled_grid(size, spacing, config.key_tokens)
        block = _attention_ops(width, width, tokens, prod(grid)) + _pool_ops(size, grid, width)
        total += depth * (block + _feed_forward_ops(width, config.hidden_dim(width), tokens))
        grid = pooled_grid(size, spacing, config.memory_tokens)
        total += _pool_ops(size, grid, width) + prod(grid) * _linear_ops(width, config.memory_dim)
        total += tokens * _linear_ops(width, config.decoder_widths[index])
        memory_tokens += prod(grid)
    for index, width in enumerate(config.decoder_widths[:-1]):
        tokens = voxels[index + 2]
        total += voxels[index + 3] * prod(steps[index + 2]) * _linear_ops(config.decoder_widths[index + 1], width)
        total += _attention_ops(width, config.memory_dim, tokens, memory_tokens)
        total += _feed_forward_ops(width, config.hidden_dim(width), tokens)
    for index, (before, after) in ((1, (config.decoder_widths[0], half)), (0, (half, full))):
        total += (
            voxels[index + 1] * prod(steps[index]) * _linear_ops(before, after) + 27 * after * after * voxels[index]
        )
    return 2 * (total + full * num_classes * voxels[0])


def sizes_after(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[tuple[int, int, int], ...]:
    """The grid at full resolution and after each downsampling, six in all. An odd size rounds up."""
    d, h, w = shape
    sizes = [(d, h, w)]
    for step in strides(spacing_mm):
        d, h, w = (ceil(n / s) for n, s in zip(sizes[-1], step, strict=True))
        sizes.append((d, h, w))
    return tuple(sizes)


def _linear(before: int, after: int) -> int:
    return before * after + after


def _conv(before: int, after: int, bias: bool = False) -> int:
    return 27 * before * after + after * bias


def _upsample(before: int, after: int) -> int:
    return 8 * before * after + after


def _attention(width: int, memory_dim: int, head_dim: int) -> int:
    return width * width + 2 * memory_dim * width + _linear(width, width) + 2 * head_dim


def _feed_forward(width: int, hidden: int) -> int:
    return _linear(width, hidden) + 28 * hidden + _linear(hidden, width)


def _linear_ops(before: int, after: int) -> int:
    return before * after


def _attention_ops(width: int, memory_dim: int, queries: int, keys: int) -> int:
    return 2 * queries * width * width + 2 * keys * memory_dim * width + 2 * queries * keys * width


def _feed_forward_ops(width: int, hidden: int, tokens: int) -> int:
    return tokens * (2 * width * hidden + 27 * hidden)


def _pool_ops(size: Sequence[int], grid: Sequence[int], width: int) -> int:
    d, h, w = size
    first = grid[0] * d * h * w if grid[0] != d else 0
    second = grid[0] * grid[1] * h * w if grid[1] != h else 0
    third = grid[0] * grid[1] * grid[2] * w if grid[2] != w else 0
    return width * (first + second + third)


def _positive(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    d, h, w = (float(mm) for mm in spacing_mm)
    if not all(0 < mm < inf for mm in (d, h, w)):
        raise ValueError(f"spacing_mm {tuple(spacing_mm)} must be positive and finite on every axis (D, H, W)")
    return d, h, w


def summary(preset: str, num_classes: int = 4) -> dict[str, Any]:
    """Sizes of a preset in closed form, for `medseg model summary`. Raises ValueError for an unknown name."""
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}; known: {', '.join(PRESETS)}")
    config = PRESETS[preset]
    counts = parameter_counts(config, num_classes)
    total = sum(counts.values())
    return {
        "preset": preset,
        "parameters": total,
        "attention_and_projection_share": attention_and_projection_share(config, num_classes),
        "parameters_by_part": counts,
        "weights_bytes_float32": 4 * total,
        "weights_bytes_bfloat16": 2 * total,
        "forward_flops_128": forward_flops(config, num_classes, (128, 128, 128)),
        "forward_flops_256": forward_flops(config, num_classes, (256, 256, 256)),
    }


def presets_table(num_classes: int = 4) -> str:
    """Markdown: every preset's size, share of attention and projections, and forward TFLOP of one-channel cubes."""
    lines = [
        "| preset | parameters | attention and projections | bfloat16, GiB | TFLOP at 128^3 | at 256^3 | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, config in PRESETS.items():
        size = sum(parameter_counts(config, num_classes).values())
        share = attention_and_projection_share(config, num_classes)
        small, large = (forward_flops(config, num_classes, (edge,) * 3) / 1e12 for edge in (128, 256))
        cells = [name, f"{size / 1e6:,.2f} M", f"{share:.1%}", f"{2 * size / 2**30:.3f}"]
        lines.append("| " + " | ".join([*cells, f"{small:.3f}", f"{large:.2f}", f"{large / small:.2f}"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(presets_table())
