"""Laws of the sliding window, its agreement with the plain method and with MONAI's."""

import threading
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from model.tasks.cast_weights import cast_once
from model.tasks.inference import Tally, blocks, largest, sliding_window
from model.tasks.layout import Layout, gaussian, line_of
from tests.tolerances import agree, rounded

# At most 27 windows of half a window's distance add to a voxel, each a softmax times a share of some roundings.
BLENDED = rounded(27 + 10)
ALL = ((0,), (1,), (2,))
MODALITY = torch.tensor([1])
ONE_MM = (1.0, 1.0, 1.0)


class Pointwise(nn.Module):
    """Logits of a voxel from that voxel alone, so that windows cannot matter."""

    def forward(self, image: Tensor, modality: Tensor, spacing_mm: object) -> Tensor:
        return torch.cat([image, -image, 0.5 * image], dim=1)


class Recorder(Pointwise):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor, modality: Tensor, spacing_mm: object) -> Tensor:
        self.shapes.append(tuple(image.shape))
        return super().forward(image, modality, spacing_mm)


class Convolution(nn.Module):
    """Sees over windows' borders, and knows left from right."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv3d(1, 3, 5, padding=2)

    def forward(self, image: Tensor, modality: Tensor, spacing_mm: object) -> Tensor:
        assert modality.shape == (len(image), 1)
        logits: Tensor = 3 * self.convolution(image)
        return logits


class Overflowing(Convolution):
    """In half precision infinite, or no number, where the image is bright."""

    def __init__(self, beyond: float) -> None:
        super().__init__()
        self.beyond, self.half = beyond, [0]

    def forward(self, image: Tensor, modality: Tensor, spacing_mm: object) -> Tensor:
        logits = super().forward(image, modality, spacing_mm)
        if logits.dtype == torch.float32:
            return logits
        self.half[0] += len(image)
        return torch.where(image > 5, self.beyond, logits)


def run(network: nn.Module, image: Tensor, groups: tuple[tuple[int, ...], ...] = ALL) -> Tensor:
    return sliding_window(network, image, MODALITY, ONE_MM, groups, (8, 8, 8))


def noise(*size: int) -> Tensor:
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(1))


def plain(
    network: nn.Module, image: Tensor, window: tuple[int, ...], overlap: float, flips: tuple[int, ...] = ()
) -> Tensor:
    """All at once: the sum of the windows' probabilities times a weight, over the sum of the weights."""
    missing = [max(0, want - have) for want, have in zip(window, image.shape[1:], strict=True)]
    sides = [side for pad in reversed(missing) for side in (pad // 2, pad - pad // 2)]
    padded = F.pad(image, sides)
    total, weights = torch.zeros(3, *padded.shape[1:]).double(), torch.zeros(padded.shape[1:]).double()
    weight = torch.einsum("d,h,w->dhw", *(torch.from_numpy(gaussian(each)) for each in window))
    starts = [line_of(*each, overlap).starts for each in zip(padded.shape[1:], window, strict=True)]
    views = [axes for count in range(len(flips) + 1) for axes in combinations(flips, count)]
    for corner in torch.cartesian_prod(*map(torch.tensor, starts)).tolist():
        box = tuple(slice(at, at + n) for at, n in zip(corner, window, strict=True))
        for axes in views:
            dims = [axis + 2 for axis in axes]
            logits = network(padded[(slice(None), *box)][None].flip(dims), MODALITY[None], ONE_MM).flip(dims)
            total[(slice(None), *box)] += logits.softmax(1)[0].double() * weight / len(views)
        weights[box] += weight
    inside = tuple(slice(pad // 2, pad // 2 + n) for pad, n in zip(missing, image.shape[1:], strict=True))
    return (total / weights)[(slice(None), *inside)].float()


@pytest.mark.parametrize("size", [(8, 8, 8), (5, 9, 20), (17, 8, 3), (1, 1, 1), (16, 23, 31)])
def test_a_pointwise_network_gives_the_same_with_and_without_windows(size: tuple[int, int, int]) -> None:
    image = noise(*size)
    whole = Pointwise()(image[None], MODALITY, None).softmax(1)[0]
    agree(run(Pointwise(), image), whole, BLENDED)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("size", [(8, 8, 8), (5, 9, 20), (30, 7, 12), (12, 30, 9), (21, 22, 23)])
@torch.inference_mode()
def test_blocks_are_the_plain_method(size: tuple[int, int, int], overlap: float) -> None:
    network, image, window = Convolution(), noise(*size), (8, 6, 10)
    expected = plain(network, image, window, overlap)
    for batch in (1, 3):
        found, seen = torch.full(expected.shape, torch.nan), torch.zeros(size)
        scan = (network, image, MODALITY, ONE_MM, ALL, window)
        for block in blocks(*scan, overlap=overlap, batch=batch):
            found[(slice(None), *block.box)] = block.probability
            seen[block.box] += 1
        assert (seen == 1).all()
        agree(found, expected, BLENDED)


@pytest.mark.parametrize("flips", [(), (1, 2)])
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_give_the_same_bits(threads: int, flips: tuple[int, ...]) -> None:
    scan = (Convolution(), noise(21, 22, 23), MODALITY, ONE_MM, ALL, (8, 6, 10))
    one, several = Tally(), Tally()
    alone = [block.probability.clone() for block in blocks(*scan, flips=flips, tally=one)]
    found = [block.probability.clone() for block in blocks(*scan, flips=flips, tally=several, threads=threads)]
    for expected, each in zip(alone, found, strict=True):
        assert torch.equal(expected, each)
    assert one.runs == several.runs
    assert not flips or torch.equal(one.pairs, several.pairs)  # type: ignore[arg-type]


def test_what_a_thread_raises_is_raised_and_the_threads_end() -> None:
    cores, before = torch.get_num_threads(), threading.active_count()
    with pytest.raises(ValueError, match="not finite"):
        list(blocks(Pointwise(), torch.full((1, 20, 8, 8), torch.nan), MODALITY, ONE_MM, ALL, (8, 8, 8), threads=2))
    assert torch.get_num_threads() == cores
    assert threading.active_count() == before


@pytest.mark.parametrize("flips", [(0,), (2,), (1, 2), (0, 1, 2)])
@torch.inference_mode()
def test_flips_are_the_mean_of_all_views(flips: tuple[int, ...]) -> None:
    network, image, window = Convolution(), noise(11, 5, 14), (8, 8, 8)
    expected, found = plain(network, image, window, 0.5, flips), torch.zeros(3, 11, 5, 14)
    tally = Tally()
    for block in blocks(network, image, MODALITY, ONE_MM, ALL, window, flips=flips, tally=tally):
        found[(slice(None), *block.box)] = block.probability
    agree(found, expected, BLENDED)
    assert tally.runs == 2 ** len(flips) * 2 * 1 * 3


@torch.inference_mode()
def test_pairs_of_views_of_a_single_window_count_its_voxels() -> None:
    network, image, tally = Convolution(), noise(8, 8, 8), Tally()
    list(blocks(network, image, MODALITY, ONE_MM, ALL, (8, 8, 8), flips=(1, 2), tally=tally))
    said = [
        network(image[None].flip(dims), MODALITY[None], ONE_MM).flip(dims)[0].argmax(0)
        for dims in ([], [3], [4], [3, 4])
    ]
    assert tally.pairs is not None
    for counts, (one, other) in zip(tally.pairs, combinations(said, 2), strict=True):
        expected = [[((one == a) & (other == b)).sum() for b in range(3)] for a in range(3)]
        agree(counts, torch.tensor(expected).double(), 1e-7)


@torch.inference_mode()
def test_pairs_of_views_of_many_windows_count_every_voxel_once() -> None:
    tally = Tally()
    list(blocks(Convolution(), noise(11, 5, 14), MODALITY, ONE_MM, ALL, (8, 8, 8), flips=(0,), tally=tally))
    assert tally.pairs is not None
    assert tally.pairs.sum().item() == pytest.approx(11 * 5 * 14, rel=1e-6)


@pytest.mark.parametrize("beyond", [float("inf"), float("-inf"), float("nan")])
@torch.inference_mode()
def test_a_window_that_overflows_is_repeated_in_float32_and_no_other(beyond: float) -> None:
    image, window = noise(8, 8, 24), (8, 8, 8)
    image[0, 4, 4, 23] = 10
    network, tally = Overflowing(beyond), Tally()
    scan = (network, image, MODALITY, ONE_MM, ALL, window)
    found = torch.cat(
        [block.probability.clone() for block in blocks(*scan, precision=torch.bfloat16, batch=2, tally=tally)], 3
    )
    assert found.isfinite().all()
    assert (tally.runs, tally.repeated, network.half) == (5, 1, [5])
    agree(found[..., 20:], plain(network, image, window, 0.5)[..., 20:], BLENDED)


class CastsOf(TorchDispatchMode):
    """Counts what is made in 16 bits of one of a network's weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.weights = {weight.data_ptr() for weight in network.parameters()}
        self.casts = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dtype == torch.bfloat16 and isinstance(args[0], Tensor):
            self.casts += args[0].data_ptr() in self.weights
        return made


def test_weights_of_products_are_cast_once_for_all_windows() -> None:
    """Autocast alone casts weights that are not trained in every window."""
    network = MedSegFormer(PRESETS["nano"], num_classes=3).requires_grad_(False).eval()
    modality, window, casts = torch.tensor([1]), (16, 16, 16), []
    for size in (16, 48):  # 1 and 5 windows
        with CastsOf(network) as counted:
            sliding_window(network, noise(16, 16, size), modality, ONE_MM, ALL, window, 0.5, torch.bfloat16)
        casts.append(counted.casts)
    once = sum(1 + (module.bias is not None) for module in network.modules() if isinstance(module, nn.Linear))
    others = casts[0] - once  # a CPU's convolutions, and means of weights
    assert others >= 0
    assert casts[1] == once + 5 * others


@torch.inference_mode()
def test_cast_once_a_network_answers_with_the_same_bits_and_says_so_to_who_listens() -> None:
    torch.manual_seed(0)
    network = MedSegFormer(PRESETS["nano"], num_classes=3).requires_grad_(False).eval()
    heard: list[Tensor] = []
    network.encoder.register_forward_hook(lambda _encoder, _given, features: heard.append(features[-1]))
    scan = (noise(16, 20, 24)[None], torch.tensor([[1]]), ONE_MM)
    cast = cast_once(network, torch.bfloat16, torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cast(*scan), network(*scan))
    assert torch.equal(*heard)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert cast_once(network, torch.float32, torch.device("cpu")) is network


def test_what_is_not_finite_in_float32_is_refused() -> None:
    image = torch.full((1, 8, 8, 8), torch.inf)
    with pytest.raises(ValueError, match="numbers that are not finite, in float32 as well"):
        run(Pointwise(), image)
    with pytest.raises(ValueError, match="numbers that are not finite, in float32 as well"):
        sliding_window(Pointwise(), image, MODALITY, ONE_MM, ALL, (8, 8, 8), precision=torch.bfloat16)


def test_a_constant_field_stays_constant_and_probabilities_sum_to_one() -> None:
    found = run(Pointwise(), torch.full((1, 19, 11, 13), 0.7))
    agree(found, found[:, :1, :1, :1].expand_as(found), BLENDED)
    agree(found.sum(0), torch.ones(19, 11, 13), BLENDED)


def test_every_window_has_the_windows_size_also_for_a_smaller_scan() -> None:
    network = Recorder()
    run(network, torch.zeros(1, 5, 9, 20))
    assert set(network.shapes) == {(1, 1, 8, 8, 8)}


@pytest.mark.parametrize("size", [8, 9, 15, 16, 33])
def test_windows_cover_everything_and_overlap_as_asked(size: int) -> None:
    starts = line_of(size, 8, 0.5).starts
    assert starts[0] == 0
    assert starts[-1] == size - 8
    assert all(later - earlier <= 4 for earlier, later in pairwise(starts))


def test_what_is_held_is_less_than_a_band_of_one_window() -> None:
    layout = Layout.of((400, 512, 512), (96, 96, 96), 0.5)
    assert layout.held < 0.9 * 96 * 400 * 512
    assert Layout.of((800, 512, 512), (96, 96, 96), 0.5).held <= 1.01 * 2 * layout.held
    assert Layout.of((4000, 512, 512), (96, 96, 96), 0.5).held == Layout.of((8000, 512, 512), (96, 96, 96), 0.5).held


def test_classes_unknown_to_a_source_are_merged_into_background() -> None:
    image = torch.full((1, 8, 8, 8), 0.3)
    everything = run(Pointwise(), image)
    restricted = run(Pointwise(), image, groups=((0, 2), (1,)))
    agree(restricted[0], everything[0] + everything[2], BLENDED)
    agree(restricted[1], everything[1], BLENDED)
    assert len(restricted) == 2


def test_blending_agrees_with_monai() -> None:
    """Of the same weights: MONAI puts a floor under its own, which no sum of products has."""
    from monai.inferers import sliding_window_inference

    network, image = Convolution(), noise(24, 20, 16)
    weight = torch.einsum("d,h,w->dhw", *[torch.from_numpy(gaussian(8))] * 3).float()
    with torch.inference_mode():
        reference = sliding_window_inference(
            image[None],
            (8, 8, 8),
            1,
            lambda patch: network(patch, MODALITY[None], None).softmax(1),
            overlap=0.5,
            roi_weight_map=weight,
        )[0]
    agree(run(network, image), reference, BLENDED)


@pytest.mark.parametrize("groups", [1, 3, 300])
def test_the_largest_is_torchs(groups: int) -> None:
    values = torch.randint(0, 4, (groups, 3, 4, 5), generator=torch.Generator().manual_seed(0)).float()
    best, which = largest(values)
    assert torch.equal(best, values.max(0).values)
    assert torch.equal(values.gather(0, which.long()[None])[0], best)
    assert (which.long() <= torch.where(values == best, torch.arange(groups).view(-1, 1, 1, 1), groups).amin(0)).all()


def test_the_gaussian_is_symmetric_and_never_vanishes() -> None:
    weight = torch.from_numpy(gaussian(9))
    assert torch.equal(weight, weight.flip(0))
    assert weight.max() == 1
    assert 3e-4 < weight.min() < 4e-3
