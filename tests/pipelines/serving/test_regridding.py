"""A label map on another grid, block by block, is that of the whole arrays."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.tasks.inference import blocks
from model.tasks.layout import Layout
from pipelines.cases import resampling
from pipelines.cases.resampling import reached, resample, resample_part
from pipelines.serving import regridding
from pipelines.serving.regridding import MostLikely

IDS = np.array([0, 7, 10_007], np.int16)


class Given(nn.Module):
    """Its input are the logits."""

    def forward(self, image: Tensor, modality: Tensor, spacing_mm: object) -> Tensor:
        return 3 * image


def whole(probability: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The answer, and by how much the likeliest is ahead of the next."""
    shares = np.stack([resample(each, shape, order=1) for each in probability])
    ordered = np.sort(shares, axis=0)
    return IDS[shares.argmax(0)], ordered[-1] - ordered[-2]


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((19, 12, 23), (30, 25, 40)),
        ((19, 12, 23), (7, 30, 23)),
        ((12, 23, 19), (12, 9, 50)),
        ((5, 40, 6), (9, 41, 3)),
        ((9, 9, 9), (9, 9, 9)),
        ((1, 17, 2), (4, 1, 1)),
    ],
)
def test_the_likeliest_in_blocks_is_the_likeliest_of_all_at_once(
    size: tuple[int, int, int], shape: tuple[int, int, int], overlap: float
) -> None:
    image = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    image[0] += 2 * (torch.arange(size[1]) > size[1] // 2)[:, None]  # some parts have only one candidate
    window, modality, groups = (6, 5, 7), torch.tensor([1, 1, 1]), [(0,), (1,), (2,)]
    probability = np.full((3, *size), np.nan, np.float32)
    found = MostLikely(size, shape, IDS, Layout.of(size, window, overlap).order)
    for block in blocks(Given(), image, modality, (1.0, 1.0, 1.0), groups, window, overlap=overlap):
        probability[(slice(None), *block.box)] = block.probability
        found.take(block.corner, block.probability.numpy())
    expected, ahead = whole(probability, shape)
    assert found.label.dtype == np.int16
    np.testing.assert_array_equal(found.label[ahead > 1e-6], expected[ahead > 1e-6])
    assert (ahead > 1e-6).mean() > 0.99


def test_what_cannot_win_is_not_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Callable[..., object]] = []

    def counted(*arguments: object) -> np.ndarray:
        calls.append(counted)
        return resample_part(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(regridding, "resample_part", counted)
    probability = np.stack([np.full((4, 5, 6), value, np.float32) for value in (0.1, 0.6, 0.3)])
    found = MostLikely((4, 5, 6), (8, 5, 6), IDS, (0, 1, 2))
    found.take((0, 0, 0), probability)
    assert (found.label == 7).all()
    assert len(calls) == 1


@pytest.mark.parametrize(("old", "new"), [(5, 9), (9, 5), (1, 4), (4, 1), (7, 7), (40, 100)])
def test_a_part_of_a_resampled_array_is_that_part(old: int, new: int) -> None:
    array = np.random.default_rng(0).random((old, 3, 4)).astype(np.float32)
    expected = resample(array, (new, 3, 4), order=1)
    last = reached(old, new)
    assert (np.diff(last) >= 0).all()
    for start in range(new):
        for stop in {start + 1, new}:
            first, end = max(0, last[start] - 1), last[stop - 1] + 1
            if old == new:
                first, end = start, stop
            rows = (slice(start, stop), slice(0, 3), slice(0, 4))
            found = resample_part(array[first:end], (int(first), 0, 0), array.shape, (new, 3, 4), rows)
            np.testing.assert_allclose(found, expected[start:stop], rtol=0, atol=1e-6)


def test_bands_of_parts_are_made_once() -> None:
    resampling._cut.cache_clear()
    part = np.zeros((4, 3, 3), np.float32)
    for _ in range(3):
        resample_part(part, (0, 0, 0), (8, 3, 3), (16, 3, 3), (slice(0, 6), slice(0, 3), slice(0, 3)))
    assert resampling._cut.cache_info().misses == 1
