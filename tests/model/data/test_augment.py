"""One resampling that keeps image and label aligned, and a plain crop when nothing is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.data.augment import Region, read_region, sample_patch
from model.data.deform import resample, sample_label, sampling_grid
from model.data.draws import PLAIN_CROP, AugmentConfig, draw

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


EVERYTHING = AugmentConfig(
    elastic_probability=1, flip_probability=0.5, gamma=0.3, noise=0.1, blur_mm=1, blur_probability=0.5,
    low_resolution=1, low_resolution_probability=0.5,
)  # fmt: skip


def regions(count: int, config: AugmentConfig = EVERYTHING, spacing_mm: tuple[float, ...] = CUBIC) -> list[Region]:
    image, label = case()
    draws = [draw(config, 2, (16, 20, 12), spacing_mm, np.random.default_rng(seed)) for seed in range(count)]
    return [read_region(image, label, (15, 20, 18), (16, 20, 12), change) for change in draws]


def test_reading_only_the_region_changes_nothing() -> None:
    image, label = (torch.from_numpy(array) for array in case())
    image = image.float()
    for region in regions(8):
        change, corner = region.draw, (-15, -20, -18)
        patch, mask = resample(region.image, region.label, region.corner, region.shape, change.matrix, change.control)
        expected, expected_mask = resample(image, label, corner, region.shape, change.matrix, change.control)
        torch.testing.assert_close(patch, expected, atol=1e-4, rtol=0)
        assert (mask != expected_mask).float().mean() < 1e-3  # ties
        assert region.label.numel() < label.numel()


def test_a_label_is_the_class_whose_linear_interpolation_is_largest() -> None:
    label = torch.from_numpy(case()[1])
    label[8:20, 10:30, 8:30] = 3  # an inside, beside the noise outside
    for region in regions(5):
        change = region.draw
        size = label.shape
        grid = sampling_grid(size, (-15, -20, -18), region.shape, change.matrix, change.control, label.device)
        shares = torch.stack([(label == value).float() for value in range(1, 4)])
        shares = F.grid_sample(shares[None], grid.movedim(0, -1)[None], align_corners=False)[0]
        expected = torch.cat([1 - shares.sum(0, keepdim=True), shares]).argmax(0)
        assert (sample_label(label, grid) != expected).float().mean() < 1e-4  # ties


def test_a_share_of_the_patches_is_plain() -> None:
    config = replace(EVERYTHING, flip_probability=0.0, spatial_probability=0.25)
    plain = [draw(config, 1, (16, 16, 16), CUBIC, np.random.default_rng(seed)).is_crop for seed in range(1500)]
    assert np.mean(plain) == pytest.approx(0.75, abs=0.04)


def only(**strength: float) -> AugmentConfig:
    return replace(PLAIN_CROP, **strength)


def changed(
    image: np.ndarray, config: AugmentConfig, spacing_mm: tuple[float, ...] = CUBIC, seed: int = 0
) -> torch.Tensor:
    """The whole image as one patch."""
    shape = image.shape[1:]
    label = np.zeros(shape, np.uint8)
    middle = [n // 2 for n in shape]
    return sample_patch(image, label, middle, shape, spacing_mm, config, np.random.default_rng(seed))[0]


def impulse() -> np.ndarray:
    image = np.zeros((1, 25, 25, 25), np.float32)
    image[0, 12, 12, 12] = 1
    return image


def spread_vox(image: torch.Tensor, axis: int) -> float:
    others = tuple(other for other in range(3) if other != axis)
    line = image[0].sum(others)
    at = torch.arange(len(line)) - len(line) // 2
    return float((line * at**2).sum() / line.sum()) ** 0.5


def test_blur_is_a_gaussian_in_millimetres() -> None:
    config = only(blur_mm=4.0, blur_probability=1.0)
    patch = changed(impulse(), config, (2.0, 2.0, 1.0), seed=2)
    deviation_mm = spread_vox(patch, 2)
    assert 1 < deviation_mm < 4
    assert spread_vox(patch, 0) == pytest.approx(deviation_mm / 2, rel=0.03)
    assert float(patch.sum()) == pytest.approx(1, rel=0.02)


def test_low_resolution_spares_thick_slices_and_keeps_what_is_smooth() -> None:
    config = only(low_resolution=1.0, low_resolution_probability=1.0)
    patch = changed(impulse(), config, THICK, seed=2)
    assert spread_vox(patch, 0) == 0
    assert spread_vox(patch, 1) > 0.3
    ramp = np.broadcast_to(np.linspace(-1, 1, 32, dtype=np.float32), (1, 32, 32, 32))
    torch.testing.assert_close(changed(ramp, config)[..., 4:-4], torch.from_numpy(ramp[..., 4:-4].copy()))


@pytest.mark.parametrize(
    "config",
    [
        only(blur_mm=3.0, blur_probability=1.0),
        only(low_resolution=2.0, low_resolution_probability=1.0),
        only(gamma=0.5),
    ],
)
def test_a_constant_stays_as_it_is(config: AugmentConfig) -> None:
    image = np.full((2, 20, 20, 20), 0.7, np.float32)
    torch.testing.assert_close(changed(image, config), torch.from_numpy(image))


def test_gamma_keeps_the_extremes_and_the_order() -> None:
    image = np.sort(np.random.default_rng(0).normal(size=1000)).astype(np.float32).reshape(1, 10, 10, 10)
    patch = changed(image, only(gamma=1.0)).flatten()
    assert float(patch[0]) == pytest.approx(float(image.min()), abs=1e-5)
    assert float(patch[-1]) == pytest.approx(float(image.max()), abs=1e-5)
    assert (patch.diff() >= 0).all()
    assert (patch - torch.from_numpy(image).flatten()).abs().max() > 0.05


def test_noise_has_the_deviation_drawn_and_differs_by_channel() -> None:
    shape = (32, 32, 32)
    image = np.zeros((2, *shape), np.float32)
    config = only(noise=0.5)
    patch = changed(image, config, seed=3)
    drawn = draw(config, 2, shape, CUBIC, np.random.default_rng(3)).channels
    for channel, own in zip(patch, drawn, strict=True):
        assert float(channel.std()) == pytest.approx(own.noise, rel=0.02)
    assert abs(float(torch.corrcoef(patch.flatten(1))[0, 1])) < 0.02
