"""The network's presets, and what follows from a spacing: strides and grids. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Any

# What a channel shows, by row of the embedding. Position 0 marks an absent channel. These are fixed: every network has
# them, at these positions; what else a model is trained on has further rows of its own, which its weights' card lists.
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
    modalities: tuple[str, ...] = MODALITIES  # names by row of the modality embedding; see `modalities_with`

    def __post_init__(self) -> None:
        for name in ("widths", "decoder_widths"):
            for width in getattr(self, name):
                if width % self.head_dim:
                    raise ValueError(f"{name} {getattr(self, name)} must be multiples of head_dim {self.head_dim}")
        if self.modalities[: len(MODALITIES)] != MODALITIES or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities {self.modalities} must begin with {MODALITIES}, and hold each name once")
        if not 0 <= self.auxiliary_heads <= 2:
            raise ValueError(f"auxiliary_heads {self.auxiliary_heads} must be 0, 1 (stride 2) or 2 (strides 2 and 4)")

    @staticmethod
    def of_record(record: Mapping[str, Any]) -> NetworkConfig:
        """From a weights file's card, where JSON has made lists of the tuples."""
        fields: dict[str, Any] = {name: tuple(own) if isinstance(own, list) else own for name, own in record.items()}
        return NetworkConfig(**fields)

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
        stem_dims=(16, 64),
        widths=(256, 512, 4096, 4096),
        depths=(3, 6, 50, 5),  # deepest at stride 16: 4,096 tokens of 256^3 voxels to every weight that is gathered
        decoder_widths=(256, 512, 2048, 4096),
        memory_dim=4096,
        head_dim=128,
        feed_forward_ratio=1.25,
        drop_path=0.2,
    ),
}


def modalities_with(names: Iterable[str]) -> tuple[str, ...]:
    """The names by row of a network for these: the fixed ones, then the others in order."""
    return (*MODALITIES, *sorted(set(names) - set(MODALITIES)))


def rows_of(names: Sequence[str], modalities: Sequence[str] = MODALITIES) -> list[int]:
    """The row of each of `names`; `modalities`: names by row. Raises ValueError if one has none."""
    known = {name: row for row, name in enumerate(modalities) if row}
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"the network has no row for modality {', '.join(unknown)}; it has {', '.join(known)}")
    return [known[name] for name in names]


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


def sizes_after(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[tuple[int, int, int], ...]:
    """The grid at full resolution and after each downsampling, six in all. An odd size rounds up."""
    d, h, w = shape
    sizes = [(d, h, w)]
    for step in strides(spacing_mm):
        d, h, w = (ceil(n / s) for n, s in zip(sizes[-1], step, strict=True))
        sizes.append((d, h, w))
    return tuple(sizes)


def pooled_grid(size: Sequence[int], spacing_mm: Sequence[float], max_tokens: int) -> tuple[int, int, int]:
    """The grid of at most `max_tokens` cells, as near to cubes in millimetres as the volume's own grid allows."""
    cell_mm = min(spacing_mm)
    while True:
        d, h, w = (max(1, min(n, round(n * mm / cell_mm))) for n, mm in zip(size, spacing_mm, strict=True))
        if d * h * w <= max_tokens:
            return d, h, w
        cell_mm *= 1.05


def _positive(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    d, h, w = (float(mm) for mm in spacing_mm)
    if not all(0 < mm < inf for mm in (d, h, w)):
        raise ValueError(f"spacing_mm {tuple(spacing_mm)} must be positive and finite on every axis (D, H, W)")
    return d, h, w
