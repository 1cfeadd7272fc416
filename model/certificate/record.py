"""Watches every operation of a step: what it allocates, when that is freed, its FLOPs, its bytes, its messages.

    with FakeTensorMode(), Recorder() as recorder:
        recorder.follow(network)
        ...
    recorder.record.allocations, recorder.record.operations

Works on fake tensors, which have no data, and on real ones. A storage is one allocation, however many tensors view it.
An operation knows the module it belongs to: in the forward pass the innermost one that is running; in the backward pass
the one whose output's gradient arrived last.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from model.certificate.flops import flops
from model.engine.dtensors import local_part, plain_name

GRANULE = 512  # bytes; PyTorch's CUDA allocator rounds every request up to a multiple of it
ANSWER = 1  # to every question about a value: the norm is finite
OUTSIDE = "outside"
QUESTION = torch.ops.aten._local_scalar_dense.default
IN_PLACE = torch.ops.aten._fused_adamw_  # one kernel, no allocation; its fake version would make whole copies
NO_KERNEL = {"prim.device", "aten.empty", "aten.empty_like", "aten.empty_strided", "aten.new_empty"}
NO_KERNEL |= {"aten._unsafe_view", "aten.detach", "aten.alias", "aten.lift_fresh"}  # another look at the same bytes
DEPTHWISE = ", depth-wise"
CONVOLUTIONS = {torch.ops.aten.convolution: 8, torch.ops.aten.convolution_backward: 9}  # where `groups` stands
# Whole tensor first among the arguments, or its parts; (position of the whole tensor, position of the rank's part).
COLLECTIVES = {
    "c10d._allgather_base_": ("all-gather", 0, 1),
    "c10d._reduce_scatter_base_": ("reduce-scatter", 1, 0),
    "c10d.allreduce_": ("all-reduce", 0, 0),
}
CONTROL_BYTES = 1024  # messages up to this size (stop? save? the norm) go beside the rest


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

    @property
    def taken(self) -> int:
        """What a GPU's allocator gives for it."""
        return -(-self.size // GRANULE) * GRANULE


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


@dataclass
class StepRecord:
    allocations: list[Allocation] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    marks: list[tuple[str, int]] = field(default_factory=list)  # what began at which operation


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.record = StepRecord()
        self.living: dict[int, tuple[weakref.ref[Any], Allocation]] = {}
        self.running: list[str] = []  # modules, outermost first
        self.arrived = OUTSIDE  # the module whose output's gradient arrived last
        self.update = False
        self.sharding = 0
        self.undo: list[Callable[[], None]] = []

    def __enter__(self) -> Recorder:
        self._watch_resizing()
        self._watch_sharding()
        return super().__enter__()

    def __exit__(self, *arguments: Any) -> None:
        super().__exit__(*arguments)
        while self.undo:
            self.undo.pop()()

    def follow(self, network: nn.Module) -> None:
        """Learn the names of the modules, and keep them apart from now on."""
        for name, module in network.named_modules():
            name = plain_name(f"{name}.").rstrip(".") or "network"
            self.undo.append(module.register_forward_pre_hook(partial(self._begin, name)).remove)
            self.undo.append(module.register_forward_hook(partial(self._end, name), always_call=True).remove)

    def mark(self, name: str) -> None:
        self.record.marks.append((name, len(self.record.operations)))
        self.update = name == "update"
        self.arrived = name

    def label(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Say what the storages of some tensors are."""
        for tensor in tensors:
            storage = local_part(tensor).untyped_storage()
            self._add(storage, "build")
            self.living[id(storage)][1].kind = kind

    @property
    def phase(self) -> str:
        if self.update:
            return "update"
        if torch._C._current_graph_task_id() == -1:
            return "forward"
        return "recompute" if self.running else "backward"

    @property
    def module(self) -> str:
        return self.running[-1] if self.running else self.arrived

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, packet, name = kwargs or {}, func._overloadpacket, str(func._overloadpacket)
        if packet is IN_PLACE:
            self._operation(packet, tree_map(_on_shard, args), {}, None)
            return None
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again, as operations on shards
        if func is QUESTION:
            return ANSWER
        result = func(*args, **kwargs)
        if name in COLLECTIVES:
            self._message(name, args)
        elif not func.is_view and name not in NO_KERNEL:
            self._operation(packet, args, kwargs, result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage(), name)
        return result

    def _operation(self, packet: Any, args: Any, kwargs: Any, result: Any) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        moved = sum(min(each.numel() * each.element_size(), each.untyped_storage().nbytes()) for each in tensors)
        name = str(packet) + (DEPTHWISE if packet in CONVOLUTIONS and args[CONVOLUTIONS[packet]] > 1 else "")
        count = flops(packet, args, kwargs, result)
        self.record.operations.append(Operation(name, self.phase, self.module, count, moved))

    def _message(self, name: str, args: Sequence[Any]) -> None:
        kind, whole, part = COLLECTIVES[name]
        whole_bytes, part_bytes = (
            sum(tensor.numel() * tensor.element_size() for tensor in tree_leaves(args[position]))
            for position in (whole, part)
        )
        if whole_bytes > CONTROL_BYTES:
            self.record.operations.append(
                Operation(kind, self.phase, self.module, whole_bytes=whole_bytes, part_bytes=part_bytes)
            )

    def _add(self, storage: torch.UntypedStorage, operation: str) -> None:
        known = self.living.get(id(storage))
        if (known and known[0]() is storage) or not storage.nbytes():
            return
        born = len(self.record.operations)
        allocation = Allocation(storage.nbytes(), born, self.phase, self.module, operation, self.sharding > 0)
        self.record.allocations.append(allocation)
        self.living[id(storage)] = (weakref.ref(storage, partial(self._freed, id(storage), allocation)), allocation)

    def _freed(self, key: int, allocation: Allocation, reference: weakref.ref[Any] | None = None) -> None:
        allocation.died = len(self.record.operations)
        known = self.living.get(key)
        if known and known[1] is allocation:
            del self.living[key]

    def _begin(self, name: str, _module: nn.Module, _inputs: Any) -> None:
        self.running.append(name)

    def _end(self, name: str, _module: nn.Module, _inputs: Any, outputs: Any) -> None:
        while self.running and self.running.pop() != name:  # a recomputation ends early, inside a module
            pass
        if torch._C._current_graph_task_id() == -1:
            self.arrived = "loss"  # what comes after the network
            for tensor in tree_leaves(outputs):
                if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                    tensor.grad_fn.register_prehook(partial(self._arrive, name))

    def _arrive(self, name: str, _gradients: Any) -> None:
        self.arrived = name
        self.running.clear()

    def _watch_resizing(self) -> None:
        """Sharded weights are gathered into storages that are resized between nothing and whole, past any mode."""
        before = torch.UntypedStorage.resize_

        def resize_(storage: torch.UntypedStorage, size: int) -> None:
            known = self.living.get(id(storage))
            before(storage, size)
            if known and known[0]() is storage and known[1].size != size:
                self._freed(id(storage), known[1])
            self._add(storage, "gather")

        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign, assignment]
        self.undo.append(lambda: setattr(torch.UntypedStorage, "resize_", before))

    def _watch_sharding(self) -> None:
        for name in ("unshard", "wait_for_unshard", "post_backward", "finalize_backward"):
            method = getattr(FSDPParamGroup, name)
            setattr(FSDPParamGroup, name, self._sharded(method))
            self.undo.append(partial(setattr, FSDPParamGroup, name, method))

    def _sharded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with self._within_sharding():
                return method(*arguments, **named)

        return call

    @contextmanager
    def _within_sharding(self) -> Iterator[None]:
        self.sharding += 1
        try:
            yield
        finally:
            self.sharding -= 1


def _on_shard(leaf: Any) -> Any:
    return local_part(leaf) if isinstance(leaf, Tensor) else leaf
