"""One resampling that keeps image and label aligned, and a plain crop when nothing is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.augment import PLAIN_CROP, AugmentConfig, sample_patch

CUBIC = (1.0, 1.0, 1.0)
THICK = (10.0, 1.5, 1.5)


def case(shape: tuple[int, int, int] = (30, 40, 36), channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((channels, *shape)).astype(np.float16)
    return image, rng.integers(0, 4, shape, dtype=np.uint8)


def ball(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    axes = [(np.arange(n) - n // 2) * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    d, h, w = np.meshgrid(*axes, indexing="ij")
    return (d**2 + h**2 + w**2 <= radius_mm**2).astype(np.uint8)


def test_without_strength_it_is_a_crop() -> None:
    image, label = case()
    patch, mask = sample_patch(image, label, (15, 20, 18), (8, 10, 12), CUBIC, PLAIN_CROP, np.random.default_rng(0))
    region = (slice(11, 19), slice(15, 25), slice(12, 24))
    assert np.array_equal(patch.numpy(), image[(slice(None), *region)].astype(np.float32))
    assert np.array_equal(mask.numpy(), label[region])
    assert patch.dtype == torch.float32
    assert mask.dtype == torch.uint8


def test_outside_the_case_is_zero() -> None:
    image, label = case()
    image, label = image + 10, label + 1
    for config in (PLAIN_CROP, replace(PLAIN_CROP, rotation_rad=1e-6)):
        patch, mask = sample_patch(image, label, (2, 20, 35), (8, 8, 8), CUBIC, config, np.random.default_rng(0))
        assert patch[:, :2].abs().max() < 1e-3
        assert (mask[:2] == 0).all()
        assert (mask[2:, :, 5:] == 0).all()
        assert (mask[2:, :, :5] > 0).all()
    patch, mask = sample_patch(image, label, (90, 90, 90), (8, 8, 8), CUBIC, AugmentConfig(), np.random.default_rng(0))
    assert (mask == 0).all()


def test_resampling_with_the_identity_is_the_crop() -> None:
    image, label = case()
    almost = replace(PLAIN_CROP, rotation_rad=1e-7)
    arguments = (image, label, (15, 20, 18), (16, 16, 16), CUBIC)
    patch, mask = sample_patch(*arguments, almost, np.random.default_rng(0))
    expected, expected_mask = sample_patch(*arguments, PLAIN_CROP, np.random.default_rng(0))
    torch.testing.assert_close(patch, expected, atol=1e-3, rtol=1e-3)
    assert torch.equal(mask, expected_mask)


def test_same_generator_same_patch() -> None:
    image, label = case()
    config = AugmentConfig(flip_probability=0.5, noise=0.1, gamma=0.3, elastic_probability=1)
    results = [
        sample_patch(image, label, (15, 20, 18), (16, 16, 16), CUBIC, config, np.random.default_rng(seed))
        for seed in (7, 7, 8)
    ]
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])


def test_the_case_is_left_alone() -> None:
    image, label = case()
    copies = image.copy(), label.copy()
    sample_patch(image, label, (15, 20, 18), (16, 16, 16), CUBIC, AugmentConfig(), np.random.default_rng(0))
    sample_patch(
        image, label, (15, 20, 18), (30, 40, 36), CUBIC, replace(PLAIN_CROP, noise=1), np.random.default_rng(0)
    )
    assert np.array_equal(image, copies[0])
    assert np.array_equal(label, copies[1])


@pytest.mark.parametrize("spacing_mm", [CUBIC, (2.0, 1.0, 1.5), THICK])
def test_label_and_image_stay_aligned(spacing_mm: tuple[float, float, float]) -> None:
    label = ball((24, 48, 48), spacing_mm, 15.0)
    image = label[None].astype(np.float32)
    config = AugmentConfig(
        rotation_rad=0.5, elastic_probability=1, flip_probability=0.5, intensity_shift=0, intensity_scale=0
    )
    for seed in range(5):
        rng = np.random.default_rng(seed)
        patch, mask = sample_patch(image, label, (10, 20, 26), (20, 40, 40), spacing_mm, config, rng)
        agreement = ((patch[0] > 0.5) == (mask > 0)).float().mean()
        assert agreement > 0.99
        assert mask.any()


@pytest.mark.parametrize("spacing_mm", [CUBIC, (2.0, 1.0, 1.5)])
def test_rotation_is_rigid_in_millimetres(spacing_mm: tuple[float, float, float]) -> None:
    label = ball((40, 60, 50), spacing_mm, 16.0)
    config = replace(PLAIN_CROP, rotation_rad=1.5)
    _, mask = sample_patch(
        label[None] * 1.0, label, (20, 30, 25), (40, 60, 50), spacing_mm, config, np.random.default_rng(3)
    )
    overlap = (mask.numpy() * label).sum()
    assert 2 * overlap / (mask.numpy().sum() + label.sum()) > 0.95


def test_scale_changes_volume_by_its_cube() -> None:
    label = ball((60, 60, 60), CUBIC, 14.0)
    volumes = []
    for seed in range(20):
        _, mask = sample_patch(
            label[None] * 1.0,
            label,
            (30, 30, 30),
            (60, 60, 60),
            CUBIC,
            replace(PLAIN_CROP, scale=0.25),
            np.random.default_rng(seed),
        )
        volumes.append(float(mask.sum()) / label.sum())
    assert 1.25**-3 * 0.95 < min(volumes) < 0.75
    assert 1.3 < max(volumes) < 1.25**3 * 1.05


def test_thick_slices_are_never_mixed() -> None:
    image = np.broadcast_to(np.arange(12, dtype=np.float32)[None, :, None, None], (1, 12, 40, 40))
    label = np.ones((12, 40, 40), dtype=np.uint8)
    config = AugmentConfig(elastic_probability=1, intensity_shift=0, intensity_scale=0)
    patch, _ = sample_patch(image, label, (6, 20, 20), (8, 8, 8), THICK, config, np.random.default_rng(0))
    torch.testing.assert_close(patch[0, :, 4, 4], torch.arange(2.0, 10.0))


def test_flip_keeps_the_centre_and_mirrors() -> None:
    image, label = case()
    config = replace(PLAIN_CROP, flip_probability=1.0)
    patch, mask = sample_patch(image, label, (15, 20, 18), (8, 10, 12), CUBIC, config, np.random.default_rng(0))
    expected, expected_mask = sample_patch(
        image, label, (15, 20, 18), (8, 10, 12), CUBIC, PLAIN_CROP, np.random.default_rng(0)
    )
    assert torch.equal(patch, expected.flip(1, 2, 3))
    assert torch.equal(mask, expected_mask.flip(0, 1, 2))
    left_right = replace(config, flip_axes=(2,))
    patch, _ = sample_patch(image, label, (15, 20, 18), (8, 10, 12), CUBIC, left_right, np.random.default_rng(0))
    assert torch.equal(patch, expected.flip(3))


def test_memory_mapped_case_gives_the_same_patch(tmp_path: Path) -> None:
    image, label = case()
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "label.npy", label)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r"), np.load(tmp_path / "label.npy", mmap_mode="r")
    arguments = ((15, 20, 18), (16, 16, 16), CUBIC, AugmentConfig())
    patch, mask = sample_patch(image, label, *arguments, np.random.default_rng(0))
    mapped_patch, mapped_mask = sample_patch(*mapped, *arguments, np.random.default_rng(0))
    assert torch.equal(patch, mapped_patch)
    assert torch.equal(mask, mapped_mask)
