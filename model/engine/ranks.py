"""This process among the others that train with it, and what they tell each other beside gradients and weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

S = TypeVar("S")
T = TypeVar("T")

PATIENCE_S = 300.0  # beyond a hang: for stacks to be written


@dataclass(frozen=True)
class Ranks:
    """This process among all; `world` 1 is the same code. `node` is how many ranks share a machine, or how many are to
    share a copy of the weights in hsdp.

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


def join_ranks(loader_workers: int = 0, shard_ranks: int | None = None) -> Ranks:
    """Meet the other ranks that torchrun started: NCCL between GPUs, gloo between CPUs.

    `shard_ranks`: how many are to share a copy of the weights in hsdp; None: those of a machine.
    """
    rank, world, position, on_machine = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", position) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    node = shard_ranks or on_machine
    if world == 1:
        return Ranks(rank, world, device, node, loader_workers)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", device_id=device if cuda else None)
    control, saving = (dist.new_group(backend="gloo") for _ in range(2))
    return Ranks(rank, world, device, node, loader_workers, control, saving)


def outlast_hangs(hang_s: float) -> None:
    """Let messages of every process group that exists, the meshes' too, wait longer than a rank may hang.

    NCCL would end the process after 10 minutes, gloo fail after 30: no stack would be written.
    """
    for group in list(dist.distributed_c10d._world.pg_map) if dist.is_initialized() else ():
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=hang_s + PATIENCE_S), group)


def gather_from_ranks(item: T, ranks: Ranks, group: dist.ProcessGroup | None = None) -> list[T]:
    """What every rank has, in their order. `group`: another one than `control`."""
    if ranks.world == 1:
        return [item]
    everyone: list[Any] = [None] * ranks.world
    dist.all_gather_object(everyone, item, group=ranks.control if group is None else group)
    return everyone


def sum_over_ranks(tensor: Tensor, ranks: Ranks) -> Tensor:
    """Of a tensor on the CPU, in place."""
    if ranks.world > 1:
        dist.all_reduce(tensor, group=ranks.control)
    return tensor


def wait_for_ranks(ranks: Ranks) -> None:
    """Until all of them are here."""
    if ranks.world > 1:
        dist.barrier(group=ranks.control)


def map_over_ranks(function: Callable[[S], T], items: Sequence[S], ranks: Ranks) -> list[T]:
    """`function` of every item, on every rank; each rank calls it for its share only."""
    results = {number: function(item) for number, item in share_of_rank(items, ranks)}
    by_number = {number: result for part in gather_from_ranks(results, ranks) for number, result in part.items()}
    return [by_number[number] for number in range(len(items))]


def share_of_rank(items: Sequence[S], ranks: Ranks) -> Iterator[tuple[int, S]]:
    """This rank's items with their numbers.

    Sharded ranks must make equally many forward passes: a rank that ends early is given items with numbers from
    `len(items)` on, whose results do not count.
    """
    for number in range(ranks.rank, -(-len(items) // ranks.world) * ranks.world, ranks.world):
        yield number, items[number % len(items)]
