"""What `compile: true` compiles, that it goes on doing so, and that it computes the same.

Dynamo's graphs are run as they are, which needs no C++ compiler; generated code is the slow test's, and tests/gpu's.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from model.data.dataset import Batch, SampleStream
from model.engine import parallelize as parallelize_module
from model.engine.dtensors import plain_name
from model.engine.parallelize import ParallelConfig, compiling, materialise, parallelize
from model.engine.ranks import Ranks
from model.engine.trainer import Run, accumulate, new_state
from model.network import cpu_convolution
from model.network.config import PRESETS
from model.network.layers import BlockNetwork, TransformerBlock
from model.network.medsegformer import MedSegFormer
from tests.model.engine.ranks import CONFIG, Job, meet, run, same_loss, same_training
from tests.model.engine.test_trainer import ALONE, CASES, FIT, STREAM, TASK
from tests.model.tasks.test_masked import TASK as MASKED
from tests.tolerances import agree, gradients

# Dynamo asks tensors for their gradients, and hides the warning where warnings are no errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")

DROPPING = replace(PRESETS["nano"], depths=(1, 3, 1, 1), drop_path=0.5)  # blocks of one size, each with its own rate
SHAPES = (16, 16, 16), (8, 16, 16)
GRID = (2, 2, 2)
FLASH = "_scaled_dot_product_flash_attention_for_cpu"
PRODUCTS = [f"aten.{name}.default" for name in ("mm", "addmm", "convolution", FLASH)]


class Counting:
    """A backend that runs the graphs as they are. `variants`: compiled; `calls`: of compiled code."""

    def __init__(self) -> None:
        self.variants = self.calls = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: Any) -> Callable[..., Any]:
        self.variants += 1

        def call(*arguments: Any) -> Any:
            self.calls += 1
            return graph(*arguments)

        return call


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Counting:
    torch._dynamo.reset()
    counting = Counting()
    monkeypatch.setattr(parallelize_module, "BACKEND", counting)
    return counting


class Blocks(BlockNetwork):
    """Two equal blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (TransformerBlock(32, head_dim=16, hidden_dim=64) for _ in range(2))

    def forward(self, volume_BDHWE: Tensor) -> Tensor:
        return self.second(self.first(volume_BDHWE, GRID), GRID)


def batch_of(shape: tuple[int, int, int]) -> Batch:
    return SampleStream(CASES[:4], replace(STREAM, patch_size={"acdc": shape}))[0]


def new_run(compiled: bool) -> Run:
    with torch.device("meta"):
        network = MedSegFormer(DROPPING, num_classes=4)
    parallel = parallelize(network, ParallelConfig("none", "selective", compiled), ALONE)
    nothing: Any = None
    return Run(parallel, TASK, SampleStream((), STREAM), (), FIT, ALONE, nothing, nothing, nothing)


def step_gradients(run: Run, batches: Sequence[Batch]) -> dict[str, Tensor]:
    network = run.parallel.network
    network.zero_grad()
    accumulate(run, new_state(network, FIT), iter(batches))
    return {plain_name(name): weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def test_blocks_full_resolution_and_loss_stay_compiled_for_two_patch_shapes(backend: Counting) -> None:
    """Blocks of one size are one variant for each shape, whatever their rates of stochastic depth."""
    compiled, batches = new_run(compiled=True), [batch_of(shape) for shape in SHAPES]
    found = step_gradients(compiled, batches)
    network = compiled.parallel.network
    blocks, steps = len(list(network.blocks())), len(list(network.full_resolution()))
    assert (blocks, steps) == (9, 6)
    assert backend.calls == 2 * (blocks + steps + 1)
    sizes_of_blocks = 7 + 1  # the first block of all is never dropped
    assert backend.variants <= 2 * (sizes_of_blocks + steps + 1)
    before = backend.variants
    step_gradients(compiled, batches)
    assert (backend.variants, backend.calls) == (before, 4 * (blocks + steps + 1))
    expected = step_gradients(new_run(compiled=False), batches)
    assert found.keys() == expected.keys()
    noise = gradients(network, FIT.global_batch * 16**3)
    agree(*(torch.cat([each.flatten() for each in found_or.values()]) for found_or in (found, expected)), noise)


def test_the_loss_of_pretraining_is_compiled_whole(backend: Counting) -> None:
    batch = batch_of(SHAPES[0])
    outputs = torch.randn(batch.image.shape), MASKED.hidden_cells(batch)
    loss = torch.compile(MASKED.loss, **compiling())
    agree(loss(outputs, batch), MASKED.loss(outputs, batch), 1e-6)
    again = replace(batch, index=7, cases=("another",) * len(batch.cases))
    loss(outputs, again)
    assert (backend.variants, backend.calls) == (1, 2)


class Products(TorchDispatchMode):
    """Counts what is computed, not what a recomputation takes from what was kept."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


def train_blocks(checkpointing: str, compiled: bool = False) -> None:
    """A forward and a backward pass of two equal blocks."""
    with torch.device("meta"):
        network = Blocks()
    parallel = parallelize(network, ParallelConfig("none", checkpointing, compiled), ALONE)
    parallel.called(torch.randn(1, 4, 4, 4, 32, requires_grad=True)).sum().backward()


def products(checkpointing: str) -> dict[str, int]:
    """Matrix products, convolutions and attentions, eager."""
    with Products() as products:
        train_blocks(checkpointing)
    return {name: products.count[name] for name in PRODUCTS}


def test_selective_recomputes_no_product_and_no_attention_compiled_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_convolution, "is_needed", lambda _volume: False)  # compiled, a CPU takes no detours
    once = products("none")
    assert all(once.values())
    assert products("selective") == once
    assert all(count > once[name] for name, count in products("full").items())
    torch._dynamo.reset()
    compiled: Counter[str] = Counter()

    def count(graph: torch.fx.GraphModule, _inputs: Any) -> Callable[..., Any]:
        inside = Counter(str(node.target) for node in graph.graph.nodes)

        def call(*arguments: Any) -> Any:
            compiled.update(inside)
            return graph(*arguments)

        return make_boxed_func(call)

    backend = aot_autograd(fw_compiler=count, bw_compiler=count, partition_fn=min_cut_rematerialization_partition)
    monkeypatch.setattr(parallelize_module, "BACKEND", backend)
    train_blocks("selective", compiled=True)
    assert {name: compiled[name] for name in PRODUCTS} == once


def test_a_state_has_the_same_names_whatever_is_compiled_or_recomputed() -> None:
    names = []
    for config in (ParallelConfig(), ParallelConfig("none", "selective", True), ParallelConfig("none", "full")):
        with torch.device("meta"):
            network = MedSegFormer(PRESETS["nano"], num_classes=4)
        names.append(set(new_state(parallelize(network, config, ALONE).network, FIT).tensors()))
    assert names[0] == names[1] == names[2]
    assert "network.decoder.to_full.conv.weight" in names[0]


def test_compiled_blocks_train_on_shards(tmp_path: Path) -> None:
    """Gathered and freed around what is compiled, whose backward pass must find them gathered again."""
    found = torch.load(run(Job(tmp_path, 2, 2, block_by_block=True), shard_gradients) / "gradients.pt")
    network = Blocks()
    materialise(network, torch.device("cpu"), seed=0)
    noise = gradients(network, 64)
    sum(network(volume_of(rank)).square().mean() / 2 for rank in range(2)).backward()
    for name, parameter in network.named_parameters():
        agree(found[name], parameter.grad, 10 * noise, name)


def shard_gradients(rank: int, job: Job) -> None:
    ranks: Ranks = meet(rank, job)
    with torch.device("meta"):
        network = Blocks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallelize_module, "BACKEND", "aot_eager")
        parallel = parallelize(network, ParallelConfig("fsdp", "selective", True), ranks)
        for _ in range(2):
            network.zero_grad()
            parallel.called(volume_of(rank)).square().mean().backward()
    whole = {plain_name(name): each.grad.full_tensor() for name, each in network.named_parameters()}
    if rank == 0:
        torch.save(whole, job.folder / "gradients.pt")


def volume_of(rank: int) -> Tensor:
    return torch.randn(1, 4, 4, 4, 32, generator=torch.Generator().manual_seed(rank))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the code generator's own deprecations
def test_generated_code_trains_like_eager(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=2, validate_every=2)
    cases = tuple(CASES[:4])
    eager = Job(tmp_path / "eager", config=config, cases=cases)
    compiled = replace(eager, folder=tmp_path / "compiled", parallel=ParallelConfig("none", "selective", True))
    same_training(run(compiled), run(eager), eager)
    same_loss(compiled.folder, eager.folder, eager)
