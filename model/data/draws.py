"""What chance decides for one training patch: a few numbers from numpy's generator.

    change = draw(AugmentConfig(), channels=4, shape=(48, 64, 48), spacing_mm=(1.0, 1.0, 1.0), rng=rng)

They are drawn on the CPU: the same generator state gives the same patch. What they do to a patch is in
model/data/deform.py (space) and model/data/intensity.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from model.network.config import ANISOTROPY_LIMIT


class Purpose(IntEnum):
    """What a random number is for: the source of micro-batches, a sample, its mask, what a step drops in the network,
    a case's validation patches."""

    SOURCE, PATCH, MASK, DROP, VALIDATION = range(5)


def generator(seed: int, number: int, purpose: Purpose) -> np.random.Generator:
    """Of what is numbered `number`. No two of (seed, number, purpose) begin alike; sums of them would."""
    return np.random.default_rng([seed, number, purpose])


def torch_seed(seed: int, number: int, purpose: Purpose) -> int:
    """The same for torch.manual_seed."""
    return int(generator(seed, number, purpose).integers(2**63))


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; all zero gives the plain crop. Ranges are symmetric and uniform unless stated."""

    spatial_probability: float = 1.0  # of rotation, scaling and deformation; a plain crop otherwise, which is sharper
    rotation_rad: float = 0.3  # about each axis
    scale: float = 0.25  # zoom between 1 / (1 + scale) and 1 + scale, log-uniform
    elastic_mm: float = 2.0  # standard deviation of the displacement of the control points
    elastic_cell_mm: float = 16.0  # distance between control points
    elastic_probability: float = 0.5
    flip_probability: float = 0.0  # of each of `flip_axes`; off, since left and right are different organs
    intensity_shift: float = 0.2  # in units of the normalised image (standard deviations)
    intensity_scale: float = 0.2
    gamma: float = 0.0  # exponent between 1 / (1 + gamma) and 1 + gamma, log-uniform
    noise: float = 0.0  # upper bound of the standard deviation
    flip_axes: tuple[int, ...] = (0, 1, 2)  # (2,) mirrors left and right only, in the pipeline's orientation
    blur_mm: float = 0.0  # upper bound of the Gaussian's standard deviation
    blur_probability: float = 0.0
    low_resolution: float = 0.0  # voxels become up to 1 + low_resolution times as long
    low_resolution_probability: float = 0.0


PLAIN_CROP = AugmentConfig(
    spatial_probability=1.0,
    rotation_rad=0.0,
    scale=0.0,
    elastic_mm=0.0,
    elastic_probability=0.0,
    flip_probability=0.0,
    intensity_shift=0.0,
    intensity_scale=0.0,
    gamma=0.0,
    noise=0.0,
)


@dataclass(frozen=True)
class ChannelDraw:
    """`blur_vox` and `shrunk` by axis: the Gaussian's deviation; how many voxels the axis is sampled down to."""

    scale: float
    shift: float
    gamma: float
    noise: float
    noise_seed: int
    blur_vox: tuple[float, ...] = (0.0, 0.0, 0.0)
    shrunk: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Draw:
    """What chance decided for one sample.

    `matrix` (3, 3): voxel offsets in the patch to voxel offsets in the case. `control` (3, d, h, w): displacement of
    control points in voxels of the case, or None. `channels`: one for every channel of the image.
    """

    matrix: np.ndarray
    control: np.ndarray | None
    channels: tuple[ChannelDraw, ...]

    @property
    def is_crop(self) -> bool:
        return self.control is None and np.array_equal(np.abs(self.matrix), np.eye(3))


def draw(
    config: AugmentConfig, channels: int, shape: Sequence[int], spacing_mm: Sequence[float], rng: np.random.Generator
) -> Draw:
    """Deformation is in millimetres; an axis more than twice as coarse as the finest is only cropped and flipped."""
    thick = [mm > ANISOTROPY_LIMIT * min(spacing_mm) for mm in spacing_mm]
    if rng.random() >= config.spatial_probability:
        config = replace(config, rotation_rad=0.0, scale=0.0, elastic_mm=0.0)
    matrix = _random_matrix(spacing_mm, thick, config, rng)
    control = _random_control(shape, spacing_mm, thick, config, rng)
    by_channel = tuple(_draw_channel(config, shape, spacing_mm, thick, rng) for _ in range(channels))
    return Draw(matrix, control, by_channel)


def _random_matrix(
    spacing_mm: Sequence[float], thick: Sequence[bool], config: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    angles = rng.uniform(-1, 1, 3) * config.rotation_rad
    zoom = (1 + config.scale) ** rng.uniform(-1, 1)
    flipped = (rng.random(3) < config.flip_probability) & np.isin(np.arange(3), config.flip_axes)
    flips = np.where(flipped, -1.0, 1.0)
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = [other for other in range(3) if other != axis]
        if angle == 0 or thick[first] or thick[second]:
            continue
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    zooms = np.where(thick, 1.0, 1 / zoom)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    return (rotation * (zooms * flips)) * spacing / spacing[:, None]


def _random_control(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    thick: Sequence[bool],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> np.ndarray | None:
    if rng.random() >= config.elastic_probability or config.elastic_mm == 0:
        return None
    extents = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    points = [max(2, round(extent / config.elastic_cell_mm) + 1) for extent in extents]
    control = rng.standard_normal((3, *points), dtype=np.float32) * np.float32(config.elastic_mm)
    in_voxels = np.where(thick, 0, 1 / np.asarray(spacing_mm)).astype(np.float32)
    return control * in_voxels[:, None, None, None]


def _draw_channel(
    config: AugmentConfig,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    thick: Sequence[bool],
    rng: np.random.Generator,
) -> ChannelDraw:
    shift, scale, gamma = rng.uniform(-1, 1, 3).tolist()
    noise, noise_seed = rng.random() * config.noise, int(rng.integers(2**63))
    blurred, blur_mm = rng.random() < config.blur_probability, rng.random() * config.blur_mm
    lowered, longer = rng.random() < config.low_resolution_probability, 1 + rng.random() * config.low_resolution
    return ChannelDraw(
        scale=1 + config.intensity_scale * scale,
        shift=config.intensity_shift * shift,
        gamma=(1 + config.gamma) ** gamma,
        noise=noise,
        noise_seed=noise_seed,
        blur_vox=tuple(blur_mm / mm if blurred else 0.0 for mm in spacing_mm),
        shrunk=tuple(n if thin else max(1, round(n / longer)) for n, thin in zip(shape, thick, strict=True))
        if lowered
        else None,
    )
