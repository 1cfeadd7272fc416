"""A run as the certificate sees it: the network, its dearest batch, and how many ranks share the work in which way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from model.network.config import NetworkConfig
from model.network.sizes import forward_flops, parameter_counts, pretraining_flops, pretraining_parameters

STRATEGIES = ("ddp", "fsdp", "hsdp")
CHECKPOINTING = ("none", "selective", "full")


@dataclass(frozen=True)
class SourceShare:
    """A source's `share` of all micro-batches, and what these look like: as in LaunchPlan."""

    source: str
    share: float
    channels: int
    patch: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class LaunchPlan:
    """`channels`, `classes` and `patch` (voxels, D H W) are those of the batch that costs most.

    `stage`: train, or pretrain, whose network has a light decoder and no classes. `group`: ranks that share one copy of
    the weights: 1 in ddp, all in fsdp, those of a node in hsdp. `mix`: the sources that batches come from, one each.
    """

    network: NetworkConfig
    classes: int
    channels: int
    patch: tuple[int, int, int]
    ranks: int
    group: int
    strategy: str
    checkpointing: str
    micro_batch: int
    global_batch: int
    precision: str = "float16"
    optimizer: str = "adamw"
    averaged: bool = False  # a running average of the weights is kept
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stage: str = "train"
    compile: bool = False  # blocks, full-resolution modules and the loss are compiled
    mix: tuple[SourceShare, ...] = ()

    def of_source(self, each: SourceShare) -> LaunchPlan:
        """The same run, if all batches were of one source."""
        return replace(self, channels=each.channels, patch=each.patch, spacing_mm=each.spacing_mm, mix=())

    @property
    def item_bytes(self) -> int:
        """Of a number in what is computed with, and of a gathered weight."""
        return 4 if self.precision == "float32" else 2

    @property
    def accumulation(self) -> int:
        """Micro-batches that a rank accumulates in a step."""
        return self.global_batch // (self.micro_batch * self.ranks)

    @property
    def parameters(self) -> int:
        if self.stage == "pretrain":
            return pretraining_parameters(self.network)
        return sum(parameter_counts(self.network, self.classes).values())

    @property
    def model_flops(self) -> int:
        """Of a whole step, as MFU counts them: forward times three, no recomputation."""
        if self.stage == "pretrain":
            forward = pretraining_flops(self.network, self.patch, self.spacing_mm, self.channels)
        else:
            forward = forward_flops(self.network, self.classes, self.patch, self.spacing_mm, self.channels)
        return 3 * forward * self.global_batch

    @property
    def voxels(self) -> int:
        return prod(self.patch)
