"""Sizes of the network in closed form: parameters and FLOPs. Imports no torch.

They are held equal to the built network by tests; `medseg model summary` and the launch certificate use them.

Run     python -m model.network.sizes       # the table of presets
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

from model.network.config import PRESETS, NetworkConfig, pooled_grid, sizes_after, spacings_after, strides


def parameter_counts(config: NetworkConfig, num_classes: int) -> dict[str, int]:
    """Parameters by part; their sum is the size of the network."""
    full, half = config.stem_dims
    condition = config.condition_dim
    levels = config.decoder_widths[:-1]
    return {
        "embedding": (
            (len(config.modalities) - 1) * condition
            + _linear(condition + 3, condition)
            + sum(_conv(a, b) + 2 * b + _linear(condition, 2 * b) + b for a, b in ((1, full), (full, half)))
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


def encoder_parameters(config: NetworkConfig) -> int:
    """Of embedding and encoder: what pretraining hands on."""
    counts = parameter_counts(config, num_classes=1)
    return sum(
        counts[part] for part in ("embedding", "self-attention", *(p for p in counts if p.startswith("encoder")))
    )


def pretraining_parameters(config: NetworkConfig) -> int:
    """Of the masked autoencoder."""
    dim, (full, half) = config.widths[0], config.stem_dims
    return (
        encoder_parameters(config)
        + dim
        + sum(_linear(width, dim) for width in config.widths)
        + 3 * _upsample(dim, dim)
        + 2 * dim
        + _upsample(dim, half)
        + _upsample(half, full)
        + (len(config.modalities) - 1) * full
    )


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
    total, memory_tokens = _encoder_ops(config, shape, spacing_mm, channels), 0
    for index, width in enumerate(config.widths):
        size, tokens = sizes[index + 2], voxels[index + 2]
        grid = pooled_grid(size, spacings[index + 2], config.memory_tokens)
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


def encoder_flops(
    config: NetworkConfig, shape: Sequence[int], spacing_mm: Sequence[float] = (1.0, 1.0, 1.0), channels: int = 1
) -> int:
    """The same of embedding and encoder alone."""
    return 2 * _encoder_ops(config, shape, spacing_mm, channels)


def pretraining_flops(
    config: NetworkConfig, shape: Sequence[int], spacing_mm: Sequence[float] = (1.0, 1.0, 1.0), channels: int = 1
) -> int:
    """The same of the masked autoencoder."""
    sizes, steps = sizes_after(shape, spacing_mm), strides(spacing_mm)
    voxels = [prod(size) for size in sizes]
    full, half = config.stem_dims
    dim, total = config.widths[0], _encoder_ops(config, shape, spacing_mm, channels)
    for index, width in enumerate(config.widths):
        total += voxels[index + 2] * _linear_ops(width, dim)
    for index, (before, after) in enumerate(((half, full), (dim, half), (dim, dim), (dim, dim), (dim, dim))):
        total += voxels[index + 1] * prod(steps[index]) * _linear_ops(before, after)
    return 2 * (total + channels * full * voxels[0])


def _encoder_ops(config: NetworkConfig, shape: Sequence[int], spacing_mm: Sequence[float], channels: int) -> int:
    """Multiply-adds of embedding and encoder."""
    sizes, spacings = sizes_after(shape, spacing_mm), spacings_after(spacing_mm)
    voxels = [prod(size) for size in sizes]
    full, half = config.stem_dims
    condition = config.condition_dim
    total = channels * _linear_ops(condition + 3, condition)
    for index, (before, after) in enumerate(((1, full), (full, half))):
        total += channels * (27 * before * after * voxels[index] + condition * 2 * after)
        total += channels * after * voxels[index] if channels > 1 else 0
    total += 27 * half * config.widths[0] * voxels[2]
    for index, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        size, tokens, spacing = sizes[index + 2], voxels[index + 2], spacings[index + 2]
        if index > 0:
            total += 27 * config.widths[index - 1] * width * tokens
        grid = pooled_grid(size, spacing, config.key_tokens)
        block = _attention_ops(width, width, tokens, prod(grid)) + _pool_ops(size, grid, width)
        total += depth * (block + _feed_forward_ops(width, config.hidden_dim(width), tokens))
    return total


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
    """Of the products with matrices; where cells hold whole tokens there are none."""
    if all(tokens % cells == 0 for tokens, cells in zip(size, grid, strict=True)):
        return 0
    d, h, w = size
    first = grid[0] * d * h * w if grid[0] != d else 0
    second = grid[0] * grid[1] * h * w if grid[1] != h else 0
    third = grid[0] * grid[1] * grid[2] * w if grid[2] != w else 0
    return width * (first + second + third)


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
