"""What a step is made of, as the recorder saw it: allocations, kernels and messages, and what each reads and writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

GRANULE = 512  # bytes; PyTorch's CUDA allocator rounds every request up to a multiple of it
DEPTHWISE = ", depth-wise"
CONVOLUTIONS = {torch.ops.aten.convolution: 8, torch.ops.aten.convolution_backward: 9}  # where `groups` stands
# What a compiler joins beside PyTorch's own list of elementwise operations and reductions.
ELEMENTWISE = {"_to_copy", "clone", "copy_", "cat", "stack", "repeat", "masked_fill", "index_select", "embedding",
               "index",
               "zeros", "zeros_like", "new_zeros", "zero_", "fill_", "ones", "ones_like", "full", "full_like", "arange",
               "scalar_tensor", "slice_backward", "select_backward", "constant_pad_nd", "gather", "floor_divide",
               "_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data"}  # fmt: skip
REDUCTIONS = {"native_layer_norm", "native_layer_norm_backward", "native_group_norm", "native_group_norm_backward",
              "sum", "mean", "amax", "var_mean", "nll_loss2d_forward", "nll_loss2d_backward", "nll_loss_forward",
              "_fused_rms_norm", "_fused_rms_norm_backward"}  # fmt: skip
LONG = 8192  # numbers; what reduces more of them to one reads its input before its result can be applied to it
TAGS = torch.Tag


@dataclass(slots=True)
class Allocation:
    """Bytes that live from operation number `born` up to `died` (None: still alive at the end)."""

    size: int
    born: int
    phase: str
    module: str
    operation: str
    sharding: bool  # made by the sharding engine: gathered weights, gradients on their way
    died: int | None = None
    kind: str = ""  # weights, gradients or optimizer, as said from outside
    number: int = -1  # its place among the record's allocations

    @property
    def taken(self) -> int:
        """What a GPU's allocator gives for it."""
        return -(-self.size // GRANULE) * GRANULE


class Touch(NamedTuple):
    """Bytes of an allocation that an operation reads or writes: `size` of them from element `offset` on."""

    allocation: int
    offset: int
    size: int


class Joining(NamedTuple):
    """How a compiler can join an operation with others: over how many elements it runs, and how many numbers it reduces
    to one (1: none). `applied`: what is reduced is then applied to the whole, as in a norm. `outer`: it is reduced over
    the leading axes, so that neighbours in memory do not meet: never in the kernel that made them."""

    span: int
    reduced: int = 1
    applied: bool = False
    outer: bool = False

    @property
    def twice(self) -> bool:
        """All must be read before the result can be applied to it."""
        return self.applied and (self.outer or self.reduced > LONG)

    @property
    def ends(self) -> bool:
        """Who reads its result is in another kernel."""
        return not self.applied and (self.outer or self.reduced > LONG)


class Products(NamedTuple):
    """A kernel's work as `batch` products of (rows, depth) by (depth, columns); attention's depth, 0, cannot be cut."""

    batch: int
    rows: int
    columns: int
    depth: int


@dataclass(slots=True)
class Operation:
    """One kernel, or one message (`part_bytes` above 0: what one rank holds of a tensor of `whole_bytes`)."""

    name: str
    phase: str  # forward | backward | recompute | update
    module: str
    flops: int = 0
    moved_bytes: int = 0  # read and written
    whole_bytes: int = 0
    part_bytes: int = 0
    times: int = 1  # more, where one block stands for several
    reads: tuple[Touch, ...] = ()
    writes: tuple[Touch, ...] = ()
    joins: Joining | None = None  # with nothing
    products: Products | None = None  # of unlimited parallelism


@dataclass
class StepRecord:
    """`compiled`: names of the modules that the compiler sees whole."""

    allocations: list[Allocation] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    marks: list[tuple[str, int]] = field(default_factory=list)  # what began at which operation
    compiled: frozenset[str] = frozenset()

    def stretches(self) -> Iterator[list[Operation]]:
        """The operations from each mark to the next."""
        ends = [number for _, number in self.marks[1:]] + [len(self.operations)]
        return (self.operations[start:end] for (_, start), end in zip(self.marks, ends, strict=True))


def operation_name(packet: Any, args: Sequence[Any]) -> str:
    return str(packet) + (DEPTHWISE if packet in CONVOLUTIONS and args[CONVOLUTIONS[packet]] > 1 else "")


def joining(packet: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Joining | None:
    """None for what stays a kernel of its own: products, convolutions, attention, scattering, messages' copies."""
    if not str(packet).startswith("aten.") or not outputs:
        return None
    name = str(packet).removeprefix("aten.")
    tags = getattr(packet, packet.overloads()[0]).tags
    reduces = name in REDUCTIONS or TAGS.reduction in tags
    if not (reduces or name in ELEMENTWISE or TAGS.pointwise in tags):
        return None
    span = max(tensor.numel() for tensor in (*inputs, *outputs))
    if not reduces:
        return Joining(span)
    smallest, largest = min(outputs, key=torch.numel), max(outputs, key=torch.numel)
    rows = max(inputs, key=torch.numel).shape
    outer = 1 < smallest.numel() == rows[-1] < span and smallest.shape[-1:] == rows[-1:]
    return Joining(span, span // max(1, smallest.numel()), applied=largest.numel() == span, outer=outer)
