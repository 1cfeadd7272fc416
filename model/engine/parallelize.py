"""From a network on one device to a network on many: the three calls of `parallelize`, in their one right order.

    network = parallelize(MedSegFormer(...) built on the meta device, config, ranks)

Strategies
    ddp    every rank holds everything; gradients are averaged while the backward pass runs
    fsdp   weights, gradients and optimizer state are cut over all ranks (FSDP2)
    hsdp   cut over the ranks of a node, replicated over nodes: the wide traffic stays on the fast links
    auto   one rank: none; else ddp if everything fits half of a rank's memory, hsdp if a node's share does, else fsdp

Gradients are means over ranks in all of them, so the loss is multiplied by the number of ranks. Nothing here changes
what is computed: tests hold every strategy to one rank's result.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from model.engine.shards import fill_shard
from model.network.decoder import RefineStep
from model.network.embedding import ChannelGate, ConditionedConv
from model.network.layers import Block, BlockNetwork

# Depth-wise convolutions return gradients in the layout of their input; DDP copies them and says so at every run.
warnings.filterwarnings("ignore", "(?s).*Grad strides do not match bucket view strides", UserWarning)

S = TypeVar("S")
T = TypeVar("T")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KEPT_SHARE = 0.05  # weights that are smaller than this share of a rank's memory stay gathered during a step
STATE_BYTES = 20  # a parameter's weight, gradient, two moments of AdamW and running average, all float32
# What selective checkpointing keeps: results that cost a matrix product. All else is cheap to compute twice.
KEPT = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.convolution.default}
FULL_RESOLUTION = (ConditionedConv, ChannelGate, RefineStep)
_REPLICATED: WeakSet[nn.Module] = WeakSet()  # networks whose shards have copies on other nodes
_ONE_UNIT: WeakSet[nn.Module] = WeakSet()  # networks that stay gathered during a step


@dataclass(frozen=True)
class ParallelConfig:
    """As params.yaml's `train` has them. `precision` is what sharded weights are gathered in."""

    strategy: str = "auto"
    activation_checkpointing: str = "none"  # none | selective | full
    compile: bool = False
    precision: str = "float32"


@dataclass(frozen=True)
class Ranks:
    """This process among all; `world` 1 is the same code. `node` is how many ranks share a machine, or
    with MEDSEG_SHARD_RANKS how many are to share a copy of the weights in hsdp.

    Two further groups carry what must not meet the gradients' messages: `control` (stop? save?) and `saving`, which is
    used by the thread that writes checkpoints.
    """

    rank: int
    world: int
    device: torch.device
    node: int = 1
    loader_workers: int = 0
    control: dist.ProcessGroup | None = field(default=None, compare=False)
    saving: dist.ProcessGroup | None = field(default=None, compare=False)


def join(loader_workers: int = 0) -> Ranks:
    """Meet the other ranks that torchrun started: NCCL between GPUs, gloo between CPUs."""
    rank, world, position, node = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", position) if cuda else torch.device("cpu")
    node = int(os.environ.get("MEDSEG_SHARD_RANKS") or node)
    if cuda:
        torch.cuda.set_device(device)
    if world == 1:
        return Ranks(rank, world, device, node, loader_workers)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", device_id=device if cuda else None)
    return Ranks(
        rank, world, device, node, loader_workers, dist.new_group(backend="gloo"), dist.new_group(backend="gloo")
    )


def parallelize(network: BlockNetwork, config: ParallelConfig, ranks: Ranks, seed: int = 0) -> nn.Module:
    """Make a network that was built on the meta device real and ready to train. Returns what is to be called.

    Checkpointing wraps the blocks, compiling must see the wrapped blocks, and sharding must come last: it replaces the
    parameters that the others hold. The weights depend on `seed` alone, not on the number of ranks.
    """
    strategy = choose(config.strategy, sum(parameter.numel() for parameter in network.parameters()), ranks)
    divide(network, strategy, config, ranks)
    materialise(network, ranks.device, seed)
    return DistributedDataParallel(network, static_graph=False) if strategy == "ddp" else network


def divide(network: BlockNetwork, strategy: str, config: ParallelConfig, ranks: Ranks) -> None:
    """All that is decided before the first weight exists."""
    checkpoint_activations(network, config.activation_checkpointing)
    if config.compile:
        for block in network.blocks():
            block.compile()
    if strategy in ("fsdp", "hsdp"):
        shard(network, strategy, PRECISIONS[config.precision], ranks)


def choose(strategy: str, parameters: int, ranks: Ranks) -> str:
    """Resolve `auto`, from sizes alone; `medseg certify` chooses with activations in view."""
    if ranks.world == 1:
        return "none"
    if strategy == "hsdp" and (ranks.node >= ranks.world or ranks.world % ranks.node):
        raise ValueError(
            f"train.strategy hsdp shards within a node and replicates over nodes, but here are {ranks.world} ranks "
            f"with {ranks.node} on this node; use fsdp"
        )
    if strategy != "auto":
        return strategy
    budget = 0.5 * memory_bytes(ranks)
    if parameters * STATE_BYTES <= budget:
        return "ddp"
    several_nodes = ranks.node < ranks.world and ranks.world % ranks.node == 0
    return "hsdp" if several_nodes and parameters * STATE_BYTES / ranks.node <= budget else "fsdp"


def memory_bytes(ranks: Ranks) -> float:
    """What one rank may use: its GPU, or its share of the machine."""
    if ranks.device.type == "cuda":
        return float(torch.cuda.get_device_properties(ranks.device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / ranks.node


def checkpoint_activations(network: nn.Module, level: str) -> None:
    """Recompute in the backward pass: the blocks, whole (`full`) or all but their matrix products (`selective`), and
    each step on full-resolution voxels, whose activations would be more than those of all blocks together."""
    if level == "none":
        return
    whole = partial(checkpoint_wrapper, checkpoint_impl=CheckpointImpl.NO_REENTRANT)
    products_kept = partial(whole, context_fn=partial(create_selective_checkpoint_contexts, _keep_products))
    for kinds, wrapper in (((Block,), products_kept if level == "selective" else whole), (FULL_RESOLUTION, whole)):
        apply_activation_checkpointing(network, wrapper, check_fn=partial(_is_one_of, kinds))


def _is_one_of(kinds: tuple[type[nn.Module], ...], module: nn.Module) -> bool:
    return isinstance(module, kinds)


def _keep_products(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def shard(network: BlockNetwork, strategy: str, gathered: torch.dtype, ranks: Ranks) -> None:
    """FSDP2, a block at a time; sums of gradients stay float32, whatever the weights are gathered in.

    Weights that may stay gathered during a step are one unit: one message to gather them, one to reduce gradients.
    """
    shape = (1, ranks.world) if strategy == "fsdp" else (ranks.world // ranks.node, ranks.node)
    mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=("replicate", "shard"))
    mesh = mesh["shard"] if strategy == "fsdp" else mesh
    policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False)
    whole_bytes = sum(parameter.numel() for parameter in network.parameters()) * gathered.itemsize
    let_go = whole_bytes > KEPT_SHARE * memory_bytes(ranks)  # between forward and backward; else gathered once a step
    for block in network.blocks() if let_go else ():
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=let_go)
    if not let_go:
        _ONE_UNIT.add(network)
    if strategy == "hsdp":
        _REPLICATED.add(network)
    # The network is never changed in place after its last layer, which is what the warning is about.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)


def materialise(network: BlockNetwork, device: torch.device, seed: int) -> None:
    network.to_empty(device=device)
    torch.manual_seed(seed)
    network.init_weights(fill_shard)


def sync_gradients(network: nn.Module, now: bool) -> None:
    """Whether the next backward pass sends gradients over the network: only the last micro-step of a batch must.

    In hsdp the cheap half, summing and cutting within the node, is done every time: whole gradients would not fit.
    """
    if isinstance(network, DistributedDataParallel):
        network.require_backward_grad_sync = now
    elif isinstance(network, FSDPModule):
        if network in _ONE_UNIT:
            network.set_reshard_after_backward(now)  # the next micro-step needs the same weights
        if network in _REPLICATED:
            network.set_requires_all_reduce(now)
        else:
            network.set_requires_gradient_sync(now)


def reshard(network: nn.Module) -> None:
    """After a forward pass that no backward pass follows: give back what was gathered for it."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def bare(network: nn.Module) -> nn.Module:
    """The network inside DDP's wrapper."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def autocast(device: torch.device, precision: str) -> Any:
    return nullcontext() if precision == "float32" else torch.autocast(device.type, PRECISIONS[precision])


def gather(own: T, ranks: Ranks) -> list[T]:
    """What every rank has, in their order."""
    if ranks.world == 1:
        return [own]
    everyone: list[Any] = [None] * ranks.world
    dist.all_gather_object(everyone, own, group=ranks.control)
    return everyone


def each(function: Callable[[S], T], items: Sequence[S], ranks: Ranks) -> list[T]:
    """`function` of every item, on every rank; each rank calls it for its share only."""
    own = {number: function(item) for number, item in share(items, ranks)}
    found = {number: result for part in gather(own, ranks) for number, result in part.items()}
    return [found[number] for number in range(len(items))]


def share(items: Sequence[S], ranks: Ranks) -> Iterator[tuple[int, S]]:
    """This rank's items with their numbers.

    Sharded ranks must make equally many forward passes: a rank that ends early is given items with numbers from
    `len(items)` on, whose results do not count.
    """
    for number in range(ranks.rank, -(-len(items) // ranks.world) * ranks.world, ranks.world):
        yield number, items[number % len(items)]
