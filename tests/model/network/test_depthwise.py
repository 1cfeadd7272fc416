"""The operator for GPUs, by its reference on a CPU: what autograd, checkpointing and compiling take it for."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from model.engine.parallelize import _keep_products
from model.network import cpu_convolution, depthwise

SIZES = [(2, 3, 4, 5, 6), (1, 1, 3, 2, 4)]


def drawn(*size: int) -> tuple[Tensor, Tensor, Tensor]:
    """A volume channels-first, a weight and a bias, in float64."""
    torch.manual_seed(0)
    batch, depth, height, width, channels = size
    volume = torch.randn(batch, channels, depth, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(channels, 1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    return volume, weight, torch.randn(channels, dtype=torch.float64, requires_grad=True)


def plain(volume: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv3d(volume, weight, bias, 1, 1, 1, len(weight))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_it_is_pytorchs_convolution_and_has_its_gradients(size: tuple[int, ...], with_bias: bool) -> None:
    volume, weight, bias = drawn(*size)
    given = (volume, weight, bias) if with_bias else (volume, weight)
    found, expected = (call(volume, weight, bias if with_bias else None) for call in (depthwise.convolve, plain))
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    for mine, other in zip(*(torch.autograd.grad(each, given, upstream) for each in (found, expected)), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)  # that of the taps is summed in float32


def test_flipped_taps_have_the_gradient_of_flipped_taps() -> None:
    volume, weight, _ = drawn(*SIZES[0])
    taps, tokens = weight.flatten(1).t(), volume.permute(0, 2, 3, 4, 1).contiguous()
    upstream = torch.randn_like(tokens)
    found = torch.autograd.grad(depthwise.depthwise(tokens, taps, None, True), weight, upstream)[0]
    expected = torch.autograd.grad(depthwise.depthwise(tokens, taps.flip(0), None, False), weight, upstream)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_pytorch_accepts_the_operators() -> None:
    volume, weight, bias = drawn(*SIZES[0])
    tokens = volume.permute(0, 2, 3, 4, 1).contiguous().detach()
    taps = weight.flatten(1).t().contiguous().detach()
    for arguments in ((tokens, taps, bias.detach(), False), (tokens, taps, None, True)):
        torch.library.opcheck(depthwise.depthwise, arguments, test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(depthwise.depthwise_taps, (tokens, tokens), test_utils=("test_schema", "test_faketensor"))


def test_a_compiler_can_follow_the_choice_for_a_gpus_volume() -> None:
    """Which looked for Triton, by a cached function: PyTorch 2.11 does not follow that, and 2.13 warns of it."""
    chosen = torch.compile(depthwise.is_needed, fullgraph=True, backend="eager", dynamic=False)
    with FakeTensorMode(), torch.no_grad():
        assert chosen(torch.empty(1, 4, 2, 2, 2, device="cuda")) is depthwise.HAS_TRITON


def test_autocast_decides_its_precision_and_the_layout_stays_channels_last() -> None:
    volume, weight, bias = (each.float() for each in drawn(*SIZES[0]))
    with torch.autocast("cpu", torch.bfloat16):
        found = depthwise.convolve(volume, weight, bias)
    assert found.dtype == torch.bfloat16
    assert found.permute(0, 2, 3, 4, 1).is_contiguous()


def test_selective_checkpointing_keeps_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed once: recomputed it would be called again in the backward pass, there with taps that are not flipped."""
    volume, weight, bias = drawn(*SIZES[0])
    calls: list[bool] = []

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if operation is torch.ops.medseg.depthwise.default:
                calls.append(args[3])
            return operation(*args, **(kwargs or {}))

    contexts = partial(create_selective_checkpoint_contexts, _keep_products)
    with Counting():
        out = checkpoint(depthwise.convolve, volume, weight, bias, use_reentrant=False, context_fn=contexts)
        out.sin().sum().backward()
    assert calls == [False, True]


def test_on_a_cpu_the_network_goes_another_way() -> None:
    assert not depthwise.is_needed(torch.empty(1, 2, 3, 3, 3))


def test_what_inference_made_of_a_small_volume_training_uses() -> None:
    """On a CPU kernels become matrices, whose places are remembered by the volume's size."""
    volume, weight = torch.randn(1, 4, 3, 3, 2), torch.randn(4, 1, 3, 3, 3, requires_grad=True)
    with torch.inference_mode():
        asked = cpu_convolution._depthwise_product(volume, weight, None)
    trained = cpu_convolution._depthwise_product(volume, weight, None)
    trained.sum().backward()
    assert torch.equal(asked, trained)
    assert weight.grad is not None
