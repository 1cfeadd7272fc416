"""What a calibration times: probes of single rates, and the parts of a planned network, each with its shapes.

    network_pieces(plan, compiled=True)    each block and full-resolution module, and the loss
    probe_pieces(plan)                     a large product, a depth-wise convolution, attention, a copy

A piece knows the operations that a certificate counts for it: they are recorded here, on tensors without data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import inf, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from model.certificate.estimate import BLOCK
from model.certificate.fusion import joined
from model.certificate.gpu import as_gpu
from model.certificate.launch_plan import LaunchPlan
from model.certificate.operations import Operation, StepRecord
from model.certificate.record import Recorder
from model.certificate.simulate import CPU, build_network, made_up_batch, made_up_task
from model.certificate.timing import Rates, kernel_seconds, start_of_a_kernel_s
from model.engine.dtensors import plain_name
from model.engine.hardware import Gpu
from model.engine.parallelize import PRECISIONS, ParallelConfig, autocast, wrap_and_shard
from model.engine.ranks import Ranks
from model.network import depthwise
from model.network.config import pooled_grid, sizes_after, spacings_after
from model.network.layers import BlockNetwork

PRODUCT, DEPTHWISE, COPY = "a large product", "a depth-wise convolution", "a copy"
STEP = "micro-step 1"
PLAIN = "float32"  # for autocast: leave everything as it is


@dataclass(frozen=True)
class ProbeSizes:
    """Large enough that a GPU is busy for some milliseconds; tests on a CPU take less."""

    product_edge: int = 8192
    copied_bytes: int = 1 << 30
    sent_bytes: int = 1 << 28
    launches: int = 1000


@dataclass(frozen=True)
class Piece:
    """`call(*arguments)` and its backward pass. `arguments` hold tensors on the meta device: shapes, made real where
    they are timed, as are the weights of `module`. `times`: in a micro-step; 0: a probe."""

    name: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    precision: str = PLAIN
    times: int = 0
    module: nn.Module | None = None
    record: StepRecord = field(default_factory=StepRecord)
    plan: LaunchPlan | None = None  # of a network's part

    def modelled_s(self, gpu: Gpu, rates: Rates) -> float:
        """As a certificate has it: of the GPU, or of the CPU that starts the kernels of a network's part."""
        gpu_s = sum(each.times * kernel_seconds(each, gpu, rates) for each in self.kernels)
        if self.plan is None:
            return gpu_s
        return max(gpu_s, sum(each.times for each in self.kernels) * start_of_a_kernel_s(self.name, self.plan, rates))

    @cached_property
    def kernels(self) -> Sequence[Operation]:
        return joined(self.record.operations, self.record.compiled)

    def ready(self, device: torch.device) -> Callable[[], None]:
        """A step with real tensors on `device`."""
        if self.module is not None:
            _fill(self.module, device)
        return partial(_step, self.call, tree_map(partial(_made, device), self.arguments), device, self.precision)

    def give_back(self) -> None:
        """The memory of the weights."""
        if self.module is not None:
            self.module.to_empty(device="meta")


def network_pieces(plan: LaunchPlan, compiled: bool = False) -> list[Piece]:
    """Shapes are those of the plan's batch; modules are checkpointed and compiled as training does it."""
    shallow = replace(plan, network=replace(plan.network, depths=(1, 1, 1, 1)))
    task, real = made_up_task(shallow), _units(_wrapped(shallow, compiled))
    network, pieces = _wrapped(shallow), []
    units = _units(network)
    with as_gpu(inf), FakeTensorMode(allow_non_fake_inputs=True):
        network.to_empty(device=CPU)
        with _calls(units) as calls, autocast(CPU, plan.precision):
            outputs = task.forward(network, made_up_batch(shallow))
        for name, arguments in calls.items():
            block = BLOCK.match(f"{name}.")
            times = plan.network.depths[int(block[1])] if block else 1
            counted = _counted(units[name], arguments, plan.precision, compiled)
            pieces.append(Piece(name, real[name], arguments, plan.precision, times, real[name], counted, plan))
        batch = made_up_batch(shallow)
        ends = tree_map(_shape, (outputs, batch.image, batch.modality, batch.target))

        def loss(found: Any, image: Tensor, modality: Tensor, target: Tensor) -> Tensor:
            return task.loss(found, replace(batch, image=image, modality=modality, target=target))

        counted = _counted(loss, ends, compiled=compiled)
        return [*pieces, Piece("loss", loss, ends, times=1, record=counted, plan=plan)]


def probe_pieces(plan: LaunchPlan, sizes: ProbeSizes) -> list[Piece]:
    """What the rates follow from; attention and the depth-wise convolution are those of the first stage."""
    dtype, config, batch = PRECISIONS[plan.precision], plan.network, plan.micro_batch
    shape, spacing_mm = sizes_after(plan.patch, plan.spacing_mm)[2], spacings_after(plan.spacing_mm)[2]
    width, hidden = config.widths[0], config.hidden_dim(config.widths[0])
    keys = prod(pooled_grid(shape, spacing_mm, config.key_tokens))

    def meta(*size: int) -> Tensor:
        return torch.empty(*size, dtype=dtype, device="meta")

    def attended(gradient: bool) -> tuple[Tensor, ...]:
        heads = [meta(batch, width // config.head_dim, n, config.head_dim) for n in (prod(shape), keys, keys)]
        return tuple(each.requires_grad_(gradient) for each in heads)

    volume, kernel = meta(batch, *shape, hidden).permute(0, 4, 1, 2, 3), meta(hidden, 1, 3, 3, 3)
    wanted: list[tuple[str, Callable[..., Any], tuple[Tensor, ...]]] = [
        (PRODUCT, torch.mm, (meta(sizes.product_edge, sizes.product_edge),) * 2),
        (DEPTHWISE, _mixed, (volume.requires_grad_(), kernel.requires_grad_())),
        ("attention, forward", F.scaled_dot_product_attention, attended(False)),
        ("attention, forward and backward", F.scaled_dot_product_attention, attended(True)),
        (COPY, torch.clone, (meta(sizes.copied_bytes // dtype.itemsize),)),
    ]
    with as_gpu(inf), FakeTensorMode():
        return [Piece(name, call, arguments, record=_counted(call, arguments)) for name, call, arguments in wanted]


def _mixed(volume_BCDHW: Tensor, kernel: Tensor) -> Tensor:
    """As `Conv3d` does it."""
    if depthwise.is_needed(volume_BCDHW):
        return depthwise.convolve(volume_BCDHW, kernel, None)
    return F.conv3d(volume_BCDHW, kernel, padding=1, groups=len(kernel))


def _step(call: Callable[..., Any], arguments: Sequence[Any], device: torch.device, precision: str) -> None:
    """Forward, and the gradients of all that has one. Nothing is accumulated or kept."""
    with autocast(device, precision):
        outputs = call(*arguments)
    ends = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if ends:
        sought = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor) and leaf.requires_grad]
        sought += call.parameters() if isinstance(call, nn.Module) else ()
        torch.autograd.grad(ends, sought, [torch.ones_like(end) for end in ends], allow_unused=True)


def _wrapped(plan: LaunchPlan, compiled: bool = False) -> BlockNetwork:
    """On the meta device, checkpointed and compiled as training does it, with weights as sharding gathers them."""
    with torch.device("meta"):
        network = build_network(plan).train()
    config = ParallelConfig("ddp", plan.checkpointing, compiled)
    wrap_and_shard(network, "ddp", config, Ranks(0, 1, CPU), plan.precision)
    return network.to(torch.float32 if plan.strategy == "ddp" else PRECISIONS[plan.precision])


def _units(network: BlockNetwork) -> dict[str, nn.Module]:
    """The blocks and full-resolution modules by name, each with what wraps it."""
    chosen = {*network.blocks(), *network.full_resolution()}
    named = [(plain_name(f"{name}.").rstrip("."), module) for name, module in network.named_modules()]
    names = {name for name, module in named if module in chosen}
    return {name: module for name, module in reversed(named) if name in names}  # what wraps comes before the wrapped


@contextmanager
def _calls(units: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Any, ...]]]:
    """With what each unit is called first, as shapes."""
    calls: dict[str, tuple[Any, ...]] = {}

    def note(name: str, _module: nn.Module, arguments: tuple[Any, ...]) -> None:
        calls.setdefault(name, tree_map(_shape, arguments))

    handles = [unit.register_forward_pre_hook(partial(note, name)) for name, unit in units.items()]
    yield calls
    for handle in handles:
        handle.remove()


def _counted(
    call: Callable[..., Any], arguments: tuple[Any, ...], precision: str = PLAIN, compiled: bool = False
) -> StepRecord:
    """The operations of a step, all of one graph if it is compiled; call in fake mode."""
    made = tree_map(partial(_made, CPU), arguments)
    with Recorder() as recorder:
        recorder.mark(STEP)
        recorder.record.compiled = frozenset({STEP} if compiled else ())
        _step(call, made, CPU, precision)
    return recorder.record


def _shape(leaf: Any) -> Any:
    """Of a tensor, on the meta device and without its past. One that repeats itself in memory becomes a whole one."""
    if not isinstance(leaf, Tensor):
        return leaf
    strides = torch.empty(leaf.shape, device="meta").stride() if 0 in leaf.stride() else leaf.stride()
    found = torch.empty_strided(leaf.shape, strides, dtype=leaf.dtype, device="meta")
    return found.requires_grad_(leaf.requires_grad)


def _made(device: torch.device, leaf: Any) -> Any:
    """The tensor of a shape: noise, or ones where it counts or masks."""
    if not isinstance(leaf, Tensor):
        return leaf
    tensor = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=device)
    tensor = tensor.normal_() if leaf.is_floating_point() else tensor.fill_(1)
    return tensor.requires_grad_(leaf.requires_grad)


@torch.no_grad()
def _fill(module: nn.Module, device: torch.device) -> None:
    module.to_empty(device=device)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.normal_(std=0.02)
