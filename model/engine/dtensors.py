"""A tensor that is cut over ranks (a DTensor) and this rank's part of it; both are plain tensors on one rank."""

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from model.network.layers import fill_normal

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Without an import of its own: it takes a second, and who never sharded has none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds; the tensor itself if it is not sharded. Shares its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole_of(tensor: Tensor) -> Tensor:
    """All of it, on every rank; all ranks that hold a part must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def assemble_like(shard: Tensor, parameter: Tensor) -> Tensor:
    """What this rank holds of a tensor, as the whole that it is a shard of; shares its memory."""
    if not is_sharded(parameter) or is_sharded(shard):
        return shard
    from torch.distributed.tensor import DTensor

    mesh, placements, shape = parameter.device_mesh, parameter.placements, parameter.shape
    return DTensor.from_local(shard, mesh, placements, run_check=False, shape=shape, stride=parameter.stride())


def shard_like(whole: Tensor, parameter: Tensor) -> Any:
    """`whole` sharded as `parameter` is, without a message: every rank has all of it and keeps its part."""
    if not is_sharded(parameter):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


@torch.no_grad()
def fill_shard(parameter: Tensor, std: float) -> None:
    """`fill_normal` of a shard: its part of the whole parameter's values, so that any number of ranks has the same."""
    if not is_sharded(parameter):
        fill_normal(parameter, std)
        return
    whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    fill_normal(whole, std)
    parameter.to_local().copy_(shard_like(whole, parameter).to_local())


def plain_name(name: str) -> str:
    """A parameter's name without the marks of checkpointing and compiling: the same under every strategy."""
    return name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")
