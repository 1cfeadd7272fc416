"""What a compiler joins: by hand on small graphs, and held to Inductor's own count on the network's modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import detect_fake_mode
from torch._functorch.aot_autograd import aot_module, make_boxed_func
from torch._functorch.partitioners import default_partition
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import ComputedBuffer
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode

from model.certificate.fusion import joined
from model.certificate.operations import Operation
from model.certificate.record import Recorder
from model.network import cpu_convolution
from model.network.decoder import RefineStep
from model.network.embedding import ConditionedConv
from model.network.layers import TransformerBlock

FORWARD, BACKWARD = "forward", "backward"


class Around(nn.Module):
    """A compiled module, `inner`, and one operation that reads what it gives."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Any) -> Tensor:
        return self.inner(*inputs) * 1.0


class Elementwise(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return F.gelu(inputs[0] * inputs[1] + inputs[2])


def kernels(inner: nn.Module, inputs: Sequence[Any], phase: str, compiled: bool = True) -> list[Operation]:
    network = Around(inner)
    with FakeTensorMode(allow_non_fake_inputs=True), Recorder() as recorder:
        recorder.follow(network)
        recorder.mark("micro-step 1")
        network(*inputs).sum().backward()
        recorder.mark("update")
        for tensor in (*network.parameters(), *inputs):
            if isinstance(tensor, Tensor) and tensor.grad is not None:
                tensor.grad.add(1.0)
    start = recorder.record.marks[0][1]
    found = joined(recorder.record.operations[start:], frozenset({"inner"} if compiled else ()))
    return [each for each in found if each.module.startswith("inner") and (each.phase == FORWARD) == (phase == FORWARD)]


def moved(operations: Sequence[Operation]) -> int:
    return sum(operation.moved_bytes for operation in operations)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def test_elementwise_operations_read_their_inputs_and_write_their_result() -> None:
    """gelu(a * b + c): three read; written are the result, and the sum for the backward pass."""
    inputs, size = [numbers(100, 100) for _ in range(3)], 4 * 100 * 100
    (kernel,) = kernels(Elementwise(), inputs, FORWARD)
    assert kernel.moved_bytes == (3 + 2) * size
    assert moved(kernels(Elementwise(), inputs, FORWARD, compiled=False)) == (3 + 3 + 2) * size
    (kernel,) = kernels(Detached(Elementwise()), inputs, FORWARD)  # without one
    assert kernel.moved_bytes == (3 + 1) * size


class Detached(nn.Module):
    """Without a backward pass but for that of the result."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = self.inner(*inputs)
        return result.requires_grad_()


def test_a_norm_over_a_row_reads_once_and_one_over_a_volume_twice() -> None:
    row, volume = numbers(1000, 64), numbers(1, 8, 32, 32, 32)
    kernel, product = kernels(Detached(nn.Sequential(nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64))), [row], FORWARD)
    assert kernel.moved_bytes == pytest.approx(2 * row.nbytes, rel=0.01)
    assert product.moved_bytes == pytest.approx(2 * row.nbytes, rel=0.1)
    (kernel,) = kernels(Detached(nn.Sequential(nn.GroupNorm(2, 8), nn.GELU())), [volume], FORWARD)
    assert kernel.moved_bytes == pytest.approx(3 * volume.nbytes, rel=0.01)


def test_a_cast_is_made_again_rather_than_written_and_read() -> None:
    """float16 in, norm in float32, float16 out: what is read twice is the float16."""
    volume = torch.randn(1, 8, 32, 32, 32, dtype=torch.float16, requires_grad=True)

    class Lifted(nn.Module):
        def forward(self, volume: Tensor) -> Tensor:
            return F.group_norm(volume.float(), 2).half()

    (kernel,) = kernels(Detached(Lifted()), [volume], FORWARD)
    assert kernel.moved_bytes == pytest.approx(3 * volume.nbytes, rel=0.01)


@pytest.mark.parametrize(
    ("module", "inputs", "tolerance"),
    [
        (lambda: ConditionedConv(4, 8, 16), lambda: [numbers(1, 4, 32, 32, 32), numbers(1, 16), (1, 1, 1)], 0.02),
        (lambda: RefineStep(16, 8), lambda: [numbers(1, 16, 16, 16, 16), numbers(1, 8, 32, 32, 32), (2, 2, 2)], 0.15),
        (lambda: TransformerBlock(64, 32, 256), lambda: [numbers(1, 8, 8, 8, 64), (4, 4, 4)], 0.2),
    ],
)
def test_bytes_are_those_that_inductor_counts(
    module: Callable[[], nn.Module], inputs: Callable[[], list[Any]], tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the kernels that it makes of the same graphs, forward and backward, with the same tensors in between."""
    monkeypatch.setattr(cpu_convolution, "is_needed", lambda _volume: False)
    torch.manual_seed(0)
    theirs = by_inductor(module(), inputs())
    for phase in (FORWARD, BACKWARD):
        assert moved(kernels(module(), inputs(), phase)) == pytest.approx(theirs[phase], rel=tolerance), phase


def by_inductor(module: nn.Module, inputs: Sequence[Any]) -> dict[str, int]:
    """Inductor's lowering, fusion and count of bytes accessed, without its code generation.

    Not counted: copies that change nothing but a layout, which the CPU's convolution wants and a GPU's does not.
    """
    counted: dict[str, int] = {}

    def counting(phase: str) -> Callable[[Any, Any], Any]:
        def compiler(graph_module: Any, examples: Any) -> Any:
            with V.set_fake_mode(detect_fake_mode(examples)), V.set_debug_handler(DebugContext()):
                graph = GraphLowering(graph_module, example_inputs=examples)
                with V.set_graph_handler(graph):
                    graph.run(*examples)
                    graph._update_scheduler()
                    counted[phase] = 4 * sum(count for node, count in graph.count_bytes()[1] if not for_the_cpu(node))
            return make_boxed_func(graph_module.forward)

        return compiler

    called = aot_module(
        module, fw_compiler=counting(FORWARD), bw_compiler=counting(BACKWARD),
        decompositions=select_decomp_table(), partition_fn=default_partition,
    )  # fmt: skip
    called(*inputs).sum().backward()
    return counted


def for_the_cpu(node: Any) -> bool:
    volume = getattr(node, "node", None)
    copied = isinstance(volume, ComputedBuffer) and volume.get_origin_node() is None and len(volume.get_size()) == 5
    return copied and len(node.read_writes.reads) == 1
