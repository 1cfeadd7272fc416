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
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from model.certificate.flops import flops, products
from model.certificate.operations import Allocation, Operation, StepRecord, Touch, joining, operation_name
from model.engine.dtensors import local_part, plain_name

ANSWER = 1  # to every question about a value: the norm is finite
OUTSIDE, LOSS = "outside", "loss"
KNOWN = "module"  # in the metadata of an autograd node: whose output it makes
QUESTION = torch.ops.aten._local_scalar_dense.default
IN_PLACE = torch.ops.aten._fused_adamw_  # one kernel, no allocation; its fake version would make whole copies
NO_KERNEL = {"prim.device", "aten.empty", "aten.empty_like", "aten.empty_strided"}
NO_KERNEL |= {"aten.new_empty", "aten.new_empty_strided"}
NO_KERNEL |= {"aten._unsafe_view", "aten.detach", "aten.alias", "aten.lift_fresh"}  # another look at the same bytes
COPY_IN = torch.ops.fsdp.all_gather_copy_in
# What is written over, whatever it was; it stands first among the arguments.
OVERWRITES = {torch.ops.aten.copy_, torch.ops.aten.zero_, torch.ops.aten.fill_, torch.ops.aten.normal_}
# Whole tensor first among the arguments, or its parts; (position of the whole tensor, position of the rank's part).
COLLECTIVES = {
    "c10d._allgather_base_": ("all-gather", 0, 1),
    "c10d._reduce_scatter_base_": ("reduce-scatter", 1, 0),
    "c10d.allreduce_": ("all-reduce", 0, 0),
}
CONTROL_BYTES = 1024  # messages up to this size (stop? save? the norm) go beside the rest


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
            name = module_name(name)
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
        for tensor in _tensors(result):
            self._add(tensor.untyped_storage(), name)
        return result

    def _operation(self, packet: Any, args: Any, kwargs: Any, result: Any) -> None:
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        for tensor in outputs:  # before the operation is counted: they are there while its inputs still are
            self._add(tensor.untyped_storage(), str(packet))
        reads = tuple(self._touch(tensor) for tensor in inputs[packet in OVERWRITES :])
        writes = tuple(self._touch(tensor) for tensor in outputs)
        if packet is COPY_IN:  # of the buffer that all ranks gather in, a rank writes its own part
            reads = writes = tuple(self._touch(tensor) for tensor in args[0])
        moved_bytes = sum(touch.size for touch in (*reads, *writes))
        self.record.operations.append(
            Operation(
                operation_name(packet, args), self.phase, self.module, flops(packet, args, kwargs, result), moved_bytes,
                reads=reads, writes=writes, joins=None if self.sharding else joining(packet, inputs, outputs),
                products=products(packet, args),
            )
        )  # fmt: skip

    def _touch(self, tensor: Tensor) -> Touch:
        storage = tensor.untyped_storage()
        known = self.living.get(id(storage))
        number = known[1].number if known and known[0]() is storage else -id(storage)
        return Touch(
            number, int(tensor.storage_offset()), min(tensor.numel() * tensor.element_size(), storage.nbytes())
        )

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
        allocation = Allocation(
            storage.nbytes(), born, self.phase, self.module, operation, self.sharding > 0,
            number=len(self.record.allocations),
        )  # fmt: skip
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
            self.arrived = LOSS  # what comes after the network
            for tensor in tree_leaves(outputs):
                made_by: Any = tensor.grad_fn if isinstance(tensor, Tensor) else None
                if made_by is not None and KNOWN not in made_by.metadata:  # by no module within this one
                    made_by.metadata[KNOWN] = name
                    made_by.register_prehook(partial(self._arrive, name))

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


def module_name(name: str) -> str:
    """Of a module of a network, without what wrapping adds."""
    return plain_name(f"{name}.").rstrip(".") or "network"


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _on_shard(leaf: Any) -> Any:
    return local_part(leaf) if isinstance(leaf, Tensor) else leaf
