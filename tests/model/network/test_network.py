"""The laws of the network: what must hold for any weights, image, modality and spacing."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figure import draw
from model.data.targets import Targets
from model.network.config import (
    MODALITIES,
    PRESETS,
    NetworkConfig,
    pooled_grid,
    spacings_after,
    strides,
)
from model.network.layers import PART_TOKENS, Conv3d, TransformerBlock, attend, slabs
from model.network.medsegformer import MedSegFormer
from model.network.norms import HeadNorm, TokenNorm, VolumeNorm
from model.network.pooling import pool
from model.network.sizes import attention_and_projection_share, forward_flops, parameter_counts, presets_table
from model.tasks.losses import deep_supervision
from tests.conftest import REPOSITORY
from tests.tolerances import agree, evaluation, half_precision, reordered_sum, rounded, within

CUBIC = (1.0, 1.0, 1.0)
THICK = (10.0, 1.5, 1.5)
T1, T2, FLAIR = (MODALITIES.index(name) for name in ("T1", "T2", "FLAIR"))


@pytest.fixture
def network() -> MedSegFormer:
    torch.manual_seed(0)
    return MedSegFormer(PRESETS["nano"], num_classes=3).eval()


def random_image(batch: int, channels: int, *size: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))


def test_order_of_channels_changes_nothing(network: MedSegFormer) -> None:
    image, modality = random_image(1, 3, 12, 20, 16), torch.tensor([[T1, T2, FLAIR]])
    order = torch.tensor([2, 0, 1])
    agree(network(image[:, order], modality[:, order], CUBIC), network(image, modality, CUBIC), evaluation(network))


def test_absent_channel_is_the_same_as_a_channel_left_out(network: MedSegFormer) -> None:
    image, modality = random_image(1, 3, 12, 20, 16), torch.tensor([[T1, 0, FLAIR]])
    image[:, 1] = float("nan")
    agree(network(image, modality, CUBIC), network(image[:, ::2], modality[:, ::2], CUBIC), evaluation(network))


def test_one_channel_among_absent_ones_is_the_same_as_alone(network: MedSegFormer) -> None:
    image, modality = random_image(1, 2, 12, 20, 16), torch.tensor([[0, T2]])
    agree(network(image, modality, CUBIC), network(image[:, 1:], modality[:, 1:], CUBIC), evaluation(network))


def test_modality_and_spacing_matter(network: MedSegFormer) -> None:
    image = random_image(1, 1, 16, 16, 16)
    reference = network(image, torch.tensor([[T1]]), CUBIC)
    assert not torch.allclose(network(image, torch.tensor([[T2]]), CUBIC), reference, atol=1e-4)
    assert not torch.allclose(network(image, torch.tensor([[T1]]), (1.0, 1.0, 1.5)), reference, atol=1e-4)


def test_batch_of_two_is_two_batches_of_one(network: MedSegFormer) -> None:
    image, modality = random_image(2, 2, 16, 16, 24), torch.tensor([[T1, T2], [FLAIR, 0]])
    together = network(image, modality, CUBIC)
    for index in range(2):
        alone = network(image[index : index + 1], modality[index : index + 1], CUBIC)
        agree(together[index : index + 1], alone, evaluation(network))


def test_a_small_change_of_the_image_is_as_small_in_the_logits(network: MedSegFormer) -> None:
    """What rounding anywhere in the network comes to is derived from it (tests/tolerances.py)."""
    image, modality = random_image(1, 2, 16, 24, 16), torch.tensor([[T1, T2]])
    changed = image + 1e-3 * random_image(1, 2, 16, 24, 16, seed=1)
    with torch.no_grad():
        logits = network(image, modality, CUBIC)
        gain = (network(changed, modality, CUBIC) - logits).norm() / logits.norm() / 1e-3
    within(gain, 1.5, "gain")  # 1.0 to 1.1 on several sizes


@pytest.mark.parametrize("spacing_mm", [CUBIC, THICK])
def test_any_size_comes_back(network: MedSegFormer, spacing_mm: tuple[float, float, float]) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = [(1, 1, 1), (2, 3, 1), *torch.randint(1, 40, (20, 3), generator=generator).tolist()]
    for size in sizes:
        with torch.no_grad():
            logits = network(random_image(1, 1, *size), torch.tensor([[T1]]), spacing_mm)
        assert logits.shape == (1, 3, *size)
        assert logits.isfinite().all()


def test_gradients_reach_every_parameter(network: MedSegFormer) -> None:
    outputs = network(random_image(1, 2, 16, 24, 16), torch.tensor([[T1, T2]]), CUBIC, auxiliary=True)
    sum(output.square().mean() for output in outputs).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_every_parameter_has_a_gradient_with_one_channel(network: MedSegFormer) -> None:
    outputs = network(random_image(1, 1, 16, 16, 16), torch.tensor([[T1]]), CUBIC, auxiliary=True)
    sum(output.square().mean() for output in outputs).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_auxiliary_outputs_are_full_half_quarter(network: MedSegFormer) -> None:
    outputs = network(random_image(1, 1, 9, 40, 32), torch.tensor([[T1]]), THICK, auxiliary=True)
    assert [output.shape[2:] for output in outputs] == [(9, 40, 32), (9, 20, 16), (9, 10, 8)]


def test_checkpointed_and_plain_backward_agree(network: MedSegFormer) -> None:
    def gradients() -> list[Tensor]:
        network.zero_grad()
        logits = network(random_image(1, 1, 16, 16, 16), torch.tensor([[T1]]), CUBIC)
        logits.square().mean().backward()
        return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]

    plain = gradients()
    apply_activation_checkpointing(network, check_fn=lambda module: isinstance(module, TransformerBlock))
    for a, b in zip(plain, gradients(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("preset", PRESETS)
def test_closed_form_is_the_built_network(preset: str) -> None:
    config = PRESETS[preset]
    with torch.device("meta"):
        network = MedSegFormer(config, num_classes=5).eval()
        modality = torch.ones(1, 2, dtype=torch.long)
    assert sum(parameter_counts(config, 5).values()) == sum(p.numel() for p in network.parameters())
    cases = list(product([(128, 128, 128), (13, 161, 96)], [CUBIC, THICK]))
    for size, spacing_mm in cases if preset in ("nano", "tiny") else cases[::3]:  # the same formula of more blocks
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 2, *size, device="meta"), modality, spacing_mm)
        assert forward_flops(config, 5, size, spacing_mm, channels=2) == counter.get_total_flops()


def test_presets_have_the_sizes_they_promise() -> None:
    size = {name: sum(parameter_counts(config, 4).values()) for name, config in PRESETS.items()}
    assert size["nano"] < 1e6
    assert size["tiny"] == pytest.approx(4e6, rel=0.1)
    assert size["small"] == pytest.approx(30e6, rel=0.05)
    assert size["base"] == pytest.approx(120e6, rel=0.05)
    assert size["large"] == pytest.approx(1.4e9, rel=0.05)
    assert size["xl"] == pytest.approx(6.7e9, rel=0.005)
    assert attention_and_projection_share(PRESETS["xl"], 4) > 0.55


@pytest.mark.parametrize("preset", PRESETS)
def test_cost_is_linear_in_voxels(preset: str) -> None:
    config = PRESETS[preset]
    assert forward_flops(config, 4, (256, 256, 256)) / forward_flops(config, 4, (128, 128, 128)) <= 8.3


def test_strides_wait_until_voxels_are_nearly_cubic() -> None:
    assert strides(CUBIC) == ((2, 2, 2),) * 5
    assert strides(THICK) == ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert strides((0.8, 0.8, 5.0))[:3] == ((2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert spacings_after(THICK)[2] == (10.0, 6.0, 6.0)


def test_spacing_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        strides((1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="positive"):
        strides((1.0, float("nan"), 1.0))


def test_widths_must_be_multiples_of_the_head() -> None:
    with pytest.raises(ValueError, match="multiples of head_dim"):
        NetworkConfig((8, 16), (33, 64, 64, 64), (1, 1, 1, 1), (32, 32, 32, 32), 32)


def test_pooled_grid_is_bounded_and_nearly_cubic() -> None:
    assert pooled_grid((64, 64, 64), CUBIC, 512) == (8, 8, 8)
    assert pooled_grid((2, 3, 1), CUBIC, 64) == (2, 3, 1)
    d, h, w = pooled_grid((9, 64, 64), (10.0, 6.0, 6.0), 512)
    assert d * h * w <= 512
    assert d >= 3


# A processor without instructions for it takes minutes for what the others do in seconds.
SLOW_WITHOUT_BFLOAT16 = [] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [pytest.mark.slow]


def test_pooling_averages_cells_whatever_their_size() -> None:
    volume = random_image(2, 3, 7, 12, 5).permute(0, 2, 3, 4, 1)
    mean = volume.mean((1, 2, 3))  # of 420 numbers of either sign, twice their root of its size
    agree(pool(volume, (5, 3, 2)).mean((1, 2, 3)), mean, 420**0.5 * reordered_sum(420))
    ramp = torch.arange(12.0).view(1, 12, 1, 1, 1)
    agree(pool(ramp, (4, 1, 1)).flatten(), torch.tensor([1.0, 4.0, 7.0, 10.0]), reordered_sum(3))


@pytest.mark.parametrize(
    ("preset", "size", "spacing_mm"),
    [
        ("nano", (32, 32, 32), CUBIC),
        ("nano", (16, 16, 16), CUBIC),
        ("tiny", (40, 56, 40), CUBIC),
        ("tiny", (24, 32, 24), CUBIC),
        pytest.param("tiny", (64, 64, 64), CUBIC, marks=SLOW_WITHOUT_BFLOAT16),
        pytest.param("tiny", (16, 160, 160), THICK, marks=SLOW_WITHOUT_BFLOAT16),
    ],
)
def test_bfloat16_gradients_are_those_of_float32(preset: str, size: tuple, spacing_mm: tuple) -> None:
    torch.manual_seed(0)
    network = MedSegFormer(PRESETS[preset], num_classes=3)
    image, target = random_image(1, 1, *size), torch.zeros((1, *size), dtype=torch.long)
    target[:, size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 1
    gradients = []
    for low_precision in (False, True, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
            outputs = network(image, torch.tensor([[T1]]), spacing_mm, auxiliary=True)
        deep_supervision(
            outputs, target, [Targets(((0,), (1,), (2,)), ("a", "b"))], strides(spacing_mm)
        ).mean().backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    reference, low, again = gradients
    scale, relative = max(gradient.norm() for gradient in reference.values()), half_precision(network, torch.bfloat16)
    for name in reference:
        assert torch.equal(low[name], again[name]), f"{name}: two runs differ, as uninitialised memory would"
        # Gradients of biases before a norm nearly cancel: their rounding is measured against the largest gradient.
        error, bound = (low[name] - reference[name]).norm(), 3 * reference[name].norm() + 2 * scale
        within(error, relative * bound, f"bfloat16 gradient of {name}")
    squared_error = sum((low[name] - reference[name]).square().sum() for name in reference)
    squared = sum(gradient.square().sum() for gradient in reference.values())
    within((squared_error / squared) ** 0.5, relative, "bfloat16 gradients, all")


@pytest.mark.parametrize(
    ("shape", "groups", "stride"),
    [
        ((1, 64, 2, 8, 8), 1, (1, 1, 1)),  # too thin for bfloat16
        ((1, 64, 8, 8, 8), 64, (1, 1, 1)),  # depth-wise
        ((2, 64, 1, 1, 1), 1, (1, 1, 1)),  # the rest: onto a few voxels
        ((2, 64, 2, 3, 2), 64, (1, 1, 1)),
        ((2, 64, 1, 2, 1), 64, (1, 1, 1)),
        ((2, 64, 3, 5, 4), 1, (2, 2, 2)),
        ((2, 64, 4, 3, 1), 1, (1, 2, 2)),
    ],
)
def test_convolution_is_right_where_bfloat16_is_broken_or_slow(shape: tuple, groups: int, stride: tuple) -> None:
    torch.manual_seed(0)
    conv, volume = Conv3d(64, 64, groups=groups), torch.randn(shape)
    results = []
    for low_precision in (False, True, True):
        conv.zero_grad()
        volume.grad = None
        volume.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
            out = conv(volume, stride)
        out.float().square().sum().backward()
        assert conv.weight.grad is not None
        assert volume.grad is not None
        results.append((out.detach().float(), conv.weight.grad.clone(), volume.grad.clone()))
    for exact, low, again in zip(*results, strict=True):
        assert torch.equal(low, again), "two runs differ, as uninitialised memory would"
        # Rounded are the volume, the weights and the result; the gradient of its square; and that gradient's result.
        within((low - exact).norm() / exact.norm(), rounded(6, torch.bfloat16), "convolution in bfloat16")


@pytest.mark.parametrize(
    ("shape", "groups", "stride"),
    [
        ((2, 64, 2, 3, 2), 64, (1, 1, 1)),  # onto a few voxels
        ((2, 64, 4, 3, 1), 1, (1, 2, 2)),
        ((2, 64, 4, 6, 4), 64, (1, 1, 1)),  # depth-wise
        ((1, 64, 1, 6, 4), 64, (1, 1, 1)),
        ((1, 64, 6, 6, 4), 1, (1, 1, 1)),  # alone: in halves
        ((1, 64, 5, 6, 5), 1, (1, 1, 1)),
        ((1, 64, 7, 8, 8), 1, (2, 2, 2)),
        ((1, 64, 1, 9, 9), 1, (1, 2, 2)),
    ],
)
def test_convolution_on_a_cpu_is_pytorchs(shape: tuple, groups: int, stride: tuple) -> None:
    torch.manual_seed(0)
    conv, results = Conv3d(64, 64, groups=groups), []
    volume = torch.randn(shape, requires_grad=True)
    for ours in (True, False):
        out = conv(volume, stride) if ours else F.conv3d(volume, conv.weight, conv.bias, stride, 1, 1, groups)
        results.append((out, *torch.autograd.grad(out.square().sum(), [volume, conv.weight, conv.bias])))
    for ours, pytorchs in zip(*results, strict=True):
        agree(ours.detach(), pytorchs.detach(), reordered_sum(27 * 64 * 48))


def test_block_survives_the_edge_of_float16() -> None:
    torch.manual_seed(0)
    network = MedSegFormer(PRESETS["nano"], num_classes=3)
    block = next(network.blocks())
    volume = 3e4 * torch.randn(1, 2, 2, 2, 32).clamp(-1, 1)
    with torch.no_grad():
        block.attention.query.weight.mul_(100)
        block.attention.key_value.weight[:32].mul_(100)  # logits of 1e5 and more, were it not for the norm
        out = block.half()(volume.half(), (2, 2, 2))
        reference = block.float()(volume, (2, 2, 2))
    assert out.isfinite().all()
    agree(out.float(), reference, rounded(20, torch.float16), "block in float16")  # a dozen operations, in and out


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_what_follows_a_stage_knows_nothing_of_how_large_its_stream_is(network: MedSegFormer, index: int) -> None:
    """Handed on as it is, a stream grew twenty-fold with every stage of a training and left float16 in the third."""
    image, modality = random_image(1, 1, 32, 32, 32), torch.tensor([[T1]])
    expected = network(image, modality, CUBIC)
    stage = network.encoder.stages[index]
    writing = [stage.downsample or network.embedding.stem_quarter]
    writing += [layer.output for block in stage.blocks for layer in (block.attention, block.feed_forward)]
    with torch.no_grad():
        for parameter in nn.ModuleList(writing).parameters():
            parameter.mul_(1000)
    agree(network(image, modality, CUBIC), expected, evaluation(network) + 1e-4, "logits")  # 1e-5 beside its variance


@pytest.mark.parametrize("grid", [(2, 3, 4), (2, 3, 5)])
def test_pooling_evenly_is_pooling(grid: tuple[int, int, int]) -> None:
    """Whole cells are averaged at once; cells that cut tokens, by matrices. The same mean, trained or only asked."""
    volume = random_image(2, 5, 4, 6, 8).movedim(1, -1)
    with torch.inference_mode():
        pool(volume, grid)
    volume.requires_grad_()
    pooled = pool(volume, grid)
    rows = F.interpolate(volume.movedim(-1, 1), scale_factor=(1, 1, grid[2]), mode="nearest").unflatten(4, (grid[2], 8))
    expected = rows.mean(5).unflatten(3, (3, 2)).mean(4).unflatten(2, (2, 2)).mean(3).movedim(1, -1)
    agree(pooled, expected, reordered_sum(4 * 6 * 8))
    pooled.sum().backward()
    assert volume.grad is not None


@pytest.mark.parametrize("norm", [TokenNorm(8), VolumeNorm(8), HeadNorm(8)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_write_what_they_read_and_sum_in_float32(norm: nn.Module, dtype: torch.dtype) -> None:
    for child in norm.parameters():
        nn.init.ones_(child) if child is norm.weight else nn.init.zeros_(child)
    volume = (300 * torch.randn(1, 8, 8, 8, 8, generator=torch.Generator().manual_seed(0))).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        normed = norm(volume).detach()  # the square of 300 is no float16
    assert normed.dtype == dtype
    within((normed.float() - norm(volume.float()).detach()).norm() / normed.float().norm(), rounded(2, dtype), "norm")


def test_attention_in_slabs_is_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 16, generator=generator, requires_grad=True) for n in (24, 10, 10))
    whole = F.scaled_dot_product_attention(query, key, value)
    expected = torch.autograd.grad(whole.square().sum(), (query, key, value))
    parts = attend(query, key, value, 4)
    agree(parts, whole, reordered_sum(40))
    for got, wanted in zip(torch.autograd.grad(parts.square().sum(), (query, key, value)), expected, strict=True):
        agree(got, wanted, reordered_sum(400))


def test_a_volume_is_cut_into_slabs_of_enough_queries() -> None:
    for size, parts in (((64, 64, 64), 64), ((32, 32, 32), 16), ((16, 16, 16), 2), ((8, 8, 8), 1), ((7, 40, 40), 1)):
        assert slabs(size) == parts
        assert size[0] % parts == 0
        assert parts == 1 or prod(size) // parts >= PART_TOKENS


def test_weights_can_be_made_real_after_construction_on_meta() -> None:
    with torch.device("meta"):
        network = MedSegFormer(PRESETS["nano"], num_classes=3)
    network.to_empty(device="cpu")
    torch.manual_seed(0)
    network.init_weights()
    torch.manual_seed(0)
    direct = MedSegFormer(PRESETS["nano"], num_classes=3)
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    torch.manual_seed(1)
    network.init_weights()
    torch.manual_seed(1)
    direct.init_weights()
    for (name, a), b in zip(network.named_parameters(), direct.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_compiles_without_graph_breaks(network: MedSegFormer) -> None:
    inputs = random_image(1, 2, 16, 24, 20), torch.tensor([[T1, 0]]), CUBIC
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    with torch.no_grad():
        agree(compiled(*inputs), network(*inputs), evaluation(network))


def test_exported_program_agrees_with_eager(network: MedSegFormer) -> None:
    inputs = random_image(1, 2, 16, 24, 20), torch.tensor([[T1, 0]]), CUBIC
    with torch.no_grad():
        exported = torch.export.export(network, inputs).module()
        agree(exported(*inputs), network(*inputs), evaluation(network))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the code generator's own deprecations
def test_generated_code_agrees_with_eager(network: MedSegFormer) -> None:
    inputs = random_image(1, 2, 16, 24, 20), torch.tensor([[T1, 0]]), CUBIC
    torch._dynamo.reset()
    with torch.no_grad():
        agree(torch.compile(network, fullgraph=True)(*inputs), network(*inputs), evaluation(network))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # onnx's own converter warns about PyTorch's deprecations
def test_onnx_agrees_with_eager(network: MedSegFormer, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    image, modality = random_image(1, 2, 16, 24, 20), torch.tensor([[T1, 0]])
    program = torch.onnx.export(network, (image, modality, CUBIC), dynamo=True, verbose=False)
    assert program is not None
    program.save(tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    names = [argument.name for argument in session.get_inputs()]
    logits = session.run(None, dict(zip(names, (image.numpy(), modality.numpy()), strict=True)))[0]
    with torch.no_grad():
        agree(torch.from_numpy(logits), network(image, modality, CUBIC), evaluation(network))
    # The modalities are an input of the exported graph, not constants in it.
    other = session.run(None, dict(zip(names, (image.numpy(), torch.tensor([[T2, 0]]).numpy()), strict=True)))[0]
    assert abs(other - logits).max() > 1e-4


@pytest.mark.slow
def test_xl_runs_forward_on_this_machine() -> None:
    result = run_command("forward")
    assert result["parameters"] == pytest.approx(6.7e9, rel=0.005)
    assert result["output_shape"] == [1, 4, 64, 64, 64]
    assert result["finite"]
    assert result["peak_memory_gib"] < 22


@pytest.mark.slow
def test_xl_learns_in_one_step_without_storing_gradients() -> None:
    result = run_command("backward")
    assert result["parameters_moved"] == result["parameters"]
    assert result["gradients_exactly_zero"] < 1e-4 * result["parameters"]
    assert result["loss_after"] < result["loss_before"]
    assert result["peak_memory_gib"] < 22


def test_step_without_stored_gradients_moves_every_parameter_of_nano() -> None:
    result = run_command("backward", "--preset", "nano", "--size", "32")
    assert result["parameters_moved"] == result["parameters"]
    assert result["loss_after"] < result["loss_before"]


def run_command(*arguments: str) -> dict[str, Any]:
    """`benchmarks.xl` in a process of its own, which gives its memory back."""
    command = [sys.executable, "-m", "benchmarks.xl", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_documented_presets_are_the_presets() -> None:
    document = Path(__file__).parents[3] / "docs" / "network.md"
    assert presets_table() in document.read_text()


def test_the_figure_in_the_docs_is_drawn_from_this_code() -> None:
    assert (REPOSITORY / "docs/network.svg").read_text() == draw()
