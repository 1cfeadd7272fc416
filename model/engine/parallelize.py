"""From a network on one device to a network on many: the three calls of `parallelize`, in their one right order.

    parallel = parallelize(MedSegFormer(...) built on the meta device, config, ranks)
    logits = parallel.called(image_BCDHW, modality_BC, spacing_mm)

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
import sys
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    CheckpointWrapper,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from model.engine.dtensors import fill_shard
from model.engine.numerics import for_training
from model.engine.ranks import Ranks
from model.network.layers import BlockNetwork

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

# Depth-wise convolutions return gradients in the layout of their input; DDP copies them and says so at every run.
warnings.filterwarnings("ignore", "(?s).*Grad strides do not match bucket view strides", UserWarning)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KEPT_SHARE = 0.05  # weights that are smaller than this share of a rank's memory stay gathered during a step
STATE_BYTES = 20  # a parameter's weight, gradient, two moments of AdamW and running average, all float32
# What selective checkpointing keeps: results that cost a matrix product, and attention by the names of its kernels.
# All else is cheap to compute twice.
KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.convolution.default,
    torch.ops.medseg.depthwise.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}
# Of one code object, which dynamo would compile 8 times at most. Blocks share theirs, and in checkpoint wrappers all
# that is compiled does: 7 sizes of blocks and 6 steps on full-resolution voxels, in training and in validation, are 26
# for every patch shape and number of channels. What exceeds this stops the run.
VARIANTS = 1024
BACKEND = "inductor"


@dataclass(frozen=True)
class ParallelConfig:
    """As params.yaml's `train` and `pretrain` have them."""

    strategy: str = "auto"
    activation_checkpointing: str = "none"  # none | selective | full
    compile: bool = False


@dataclass(frozen=True)
class ParallelNetwork:
    """A network as this rank trains it: whole, or its shards.

    `wrapper`: DDP's, around it. `one_unit`: all its shards stay gathered during a step. `replicated`: they have copies
    on other nodes.
    """

    network: BlockNetwork
    wrapper: DistributedDataParallel | None = None
    one_unit: bool = False
    replicated: bool = False
    compiled: bool = False

    @property
    def called(self) -> nn.Module:
        """What a step of training calls."""
        return self.network if self.wrapper is None else self.wrapper

    def sync_gradients(self, now: bool) -> None:
        """Whether the next backward pass sends gradients to other ranks: only the last micro-step of a batch must.

        In hsdp the cheap half, summing and cutting within the node, is done every time: whole gradients would not fit.
        """
        if self.wrapper is not None:
            self.wrapper.require_backward_grad_sync = now
        elif _is_fsdp(self.network):
            if self.one_unit:
                self.network.set_reshard_after_backward(now)  # the next micro-step needs the same weights
            if self.replicated:
                self.network.set_requires_all_reduce(now)
            else:
                self.network.set_requires_gradient_sync(now)


def parallelize(
    network: BlockNetwork, config: ParallelConfig, ranks: Ranks, precision: str = "float32", seed: int = 0
) -> ParallelNetwork:
    """Make a network that was built on the meta device real and ready to train; `precision`: of gathered weights.

    Checkpointing wraps the blocks; compiling must see the wrappers, or it would compile each block on its own and the
    wrapper would recompute all of it; sharding must come last: it replaces the parameters that the others hold, and
    gathers and frees them outside of what is compiled. The weights depend on `seed` alone, not on the number of ranks.
    """
    strategy = choose_strategy(config.strategy, sum(parameter.numel() for parameter in network.parameters()), ranks)
    parallel = wrap_and_shard(network, strategy, config, ranks, precision)
    materialise(network, ranks.device, seed)
    return replace(parallel, wrapper=DistributedDataParallel(network)) if strategy == "ddp" else parallel


def wrap_and_shard(
    network: BlockNetwork, strategy: str, config: ParallelConfig, ranks: Ranks, precision: str
) -> ParallelNetwork:
    """All that is done before the first weight exists; DDP's wrapper comes after."""
    checkpoint_activations(network, config.activation_checkpointing)
    if config.compile:
        for module in in_wrappers(network, (*network.blocks(), *network.full_resolution())):
            module.compile(**compiling())
    if strategy in ("fsdp", "hsdp"):
        parallel = shard(network, strategy, PRECISIONS[precision], ranks)
    else:
        parallel = ParallelNetwork(network)
    return replace(parallel, compiled=config.compile)


def choose_strategy(strategy: str, parameters: int, ranks: Ranks) -> str:
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


def checkpoint_activations(network: BlockNetwork, level: str) -> None:
    """Recompute in the backward pass: the blocks, whole (`full`) or all but products and attention (`selective`), and
    each step on full-resolution voxels, whose activations would be more than those of all blocks together."""
    if level == "none":
        return
    whole = partial(checkpoint_wrapper, checkpoint_impl=CheckpointImpl.NO_REENTRANT)
    products_kept = partial(whole, context_fn=partial(create_selective_checkpoint_contexts, _keep_products))
    blocks, full_resolution = set(network.blocks()), set(network.full_resolution())
    apply_activation_checkpointing(network, products_kept if level == "selective" else whole, blocks.__contains__)
    apply_activation_checkpointing(network, whole, full_resolution.__contains__)


def _keep_products(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def in_wrappers(network: nn.Module, modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules as the network calls them: in their checkpoint wrapper, where they have one."""
    wrappers = {
        each._checkpoint_wrapped_module: each for each in network.modules() if isinstance(each, CheckpointWrapper)
    }
    return [wrappers.get(module, module) for module in modules]


def compiling() -> dict[str, Any]:
    """Arguments of `torch.compile`. Whole or not at all, and anew for every shape: there are few, and a kernel that
    knows its sizes is faster than one for all."""
    dynamo: Any = torch._dynamo.config
    dynamo.accumulated_recompile_limit = max(VARIANTS, dynamo.accumulated_recompile_limit)
    return {"backend": BACKEND, "fullgraph": True, "dynamic": False, "recompile_limit": VARIANTS}


def shard(network: BlockNetwork, strategy: str, gathered: torch.dtype, ranks: Ranks) -> ParallelNetwork:
    """FSDP2, a block at a time; sums of gradients stay float32, whatever the weights are gathered in.

    Weights that may stay gathered during a step are one unit: one message to gather them, one to reduce gradients.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    shape = (1, ranks.world) if strategy == "fsdp" else (ranks.world // ranks.node, ranks.node)
    mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=("replicate", "shard"))
    mesh = mesh["shard"] if strategy == "fsdp" else mesh
    policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False)
    whole_bytes = sum(parameter.numel() for parameter in network.parameters()) * gathered.itemsize
    let_go = whole_bytes > KEPT_SHARE * memory_bytes(ranks)  # between forward and backward; else gathered once a step
    for block in in_wrappers(network, network.blocks()) if let_go else ():
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=let_go)
    # The network is never changed in place after its last layer, which is what the warning is about.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    return ParallelNetwork(network, one_unit=not let_go, replicated=strategy == "hsdp")


def materialise(network: BlockNetwork, device: torch.device, seed: int) -> None:
    network.to_empty(device=device)
    torch.manual_seed(seed)
    network.init_weights(fill_shard)


def reshard(network: nn.Module) -> None:
    """After a forward pass that no backward pass follows: give back what was gathered for it."""
    for module in network.modules():
        if _is_fsdp(module):
            module.reshard()


def _is_fsdp(module: nn.Module) -> TypeGuard[FSDPModule]:
    """Without an import of its own: it takes half a second, and who never sharded has none."""
    loaded = sys.modules.get("torch.distributed.fsdp")
    return loaded is not None and isinstance(module, loaded.FSDPModule)


def autocast(device: torch.device, precision: str) -> Any:
    """In what the device trains in; see numerics.py."""
    dtype = for_training(PRECISIONS[precision], device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
