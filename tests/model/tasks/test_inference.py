"""Laws of the sliding window, and its agreement with MONAI's."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from model.tasks.inference import corners, gaussian, sliding_window
from tests.tolerances import agree, rounded

# At most 27 windows of half a window's distance add to a voxel, each a softmax times a weight; then the division.
BLENDED = rounded(27 + 10)
ALL = ((0,), (1,), (2,))
MODALITY = torch.tensor([1])


class Pointwise(nn.Module):
    """Logits of a voxel from that voxel alone, so that windows cannot matter."""

    def forward(self, image: Tensor, modality: Tensor, spacing_mm: object) -> Tensor:
        return torch.cat([image, -image, 0.5 * image], dim=1)


class Recorder(Pointwise):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor, modality: Tensor, spacing_mm: object) -> Tensor:
        self.shapes.append(tuple(image.shape[2:]))
        return super().forward(image, modality, spacing_mm)


def run(network: nn.Module, image: Tensor, groups: tuple[tuple[int, ...], ...] = ALL) -> Tensor:
    return sliding_window(network, image, MODALITY, (1.0, 1.0, 1.0), groups, (8, 8, 8))


@pytest.mark.parametrize("size", [(8, 8, 8), (5, 9, 20), (17, 8, 3), (1, 1, 1), (16, 23, 31)])
def test_a_pointwise_network_gives_the_same_with_and_without_windows(size: tuple[int, int, int]) -> None:
    image = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    whole = Pointwise()(image[None], MODALITY, None).softmax(1)[0]
    agree(run(Pointwise(), image), whole, BLENDED)


def test_a_constant_field_stays_constant_and_probabilities_sum_to_one() -> None:
    found = run(Pointwise(), torch.full((1, 19, 11, 13), 0.7))
    agree(found, found[:, :1, :1, :1].expand_as(found), BLENDED)
    agree(found.sum(0), torch.ones(19, 11, 13), BLENDED)


def test_every_window_has_the_windows_size_also_for_a_smaller_scan() -> None:
    network = Recorder()
    run(network, torch.zeros(1, 5, 9, 20))
    assert set(network.shapes) == {(8, 8, 8)}


@pytest.mark.parametrize("size", [8, 9, 15, 16, 33])
def test_windows_cover_everything_and_overlap_as_asked(size: int) -> None:
    starts = sorted({corner[0] for corner in corners((size, 8, 8), (8, 8, 8), 0.5)})
    assert starts[0] == 0
    assert starts[-1] == size - 8
    assert all(later - earlier <= 4 for earlier, later in pairwise(starts))


def test_classes_unknown_to_a_source_are_merged_into_background() -> None:
    image = torch.full((1, 8, 8, 8), 0.3)
    everything = run(Pointwise(), image)
    restricted = run(Pointwise(), image, groups=((0, 2), (1,)))
    agree(restricted[0], everything[0] + everything[2], BLENDED)
    agree(restricted[1], everything[1], BLENDED)
    assert len(restricted) == 2


def test_blending_agrees_with_monai() -> None:
    from monai.inferers import sliding_window_inference

    torch.manual_seed(0)
    network = nn.Conv3d(1, 3, 5, padding=2)
    image = torch.randn(1, 24, 20, 16)

    class Adapted(nn.Module):
        def forward(self, patch: Tensor, modality: Tensor, spacing_mm: object) -> Tensor:
            return network(patch).softmax(1).log()  # so that a softmax after it changes nothing

    with torch.inference_mode():
        reference = sliding_window_inference(
            image[None],
            (8, 8, 8),
            1,
            lambda patch: network(patch).softmax(1),
            overlap=0.5,
            mode="gaussian",
            sigma_scale=0.125,
        )[0]
    agree(run(Adapted(), image), reference, BLENDED)


def test_the_gaussian_is_symmetric_and_never_vanishes() -> None:
    weight = gaussian((8, 9, 10))
    agree(weight, weight.flip(0, 1, 2), rounded(10))
    assert weight.min() >= 1e-3
