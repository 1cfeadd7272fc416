"""Batches on their way from a loader to its rank lie in /dev/shm; a container has 64 MB of it unless told otherwise."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

PREFETCHED = 4  # batches ahead, of each loader
PLACE = Path("/dev/shm")
REMEDY = "give the container more (`docker run --shm-size`), or set fewer loaders (MEDSEG_LOADERS; 0 needs none)"
MIB = 1 << 20


@dataclass(frozen=True)
class Unshared:
    """Stands for a batch that found no room."""

    reason: str


@dataclass(frozen=True)
class LoaderMemory:
    """What the loaders of one machine take at most. `pinned_bytes`: page-locked, on machines with GPUs only.
    `descriptors`: of all its processes together."""

    shared_bytes: int
    pinned_bytes: int
    descriptors: int


def loader_memory(batch_bytes: int, loaders: int, ranks: int) -> LoaderMemory:
    """Of a machine with so many ranks, each with so many loaders. `batch_bytes`: of the largest, as a loader ships it.

    A rank keeps PREFETCHED batches of each loader ready and trains with one more.
    """
    kept = loaders * PREFETCHED + 1 if loaders else 0
    return LoaderMemory(ranks * kept * batch_bytes, ranks * max(kept, 1) * batch_bytes, ranks * kept)


def require(batch_bytes: int, loaders: int, ranks: int, place: Path = PLACE) -> None:
    """Raise ValueError if what `ranks` of this machine keep ready does not fit. Before the first loader starts."""
    need_bytes = ranks * (loaders * PREFETCHED + 1) * batch_bytes
    if loaders and place.is_dir() and need_bytes > (free_bytes := shutil.disk_usage(place).free):
        raise ValueError(
            f"{place} has {free_bytes / MIB:,.0f} MiB free, and {ranks} ranks with {loaders} loaders of {PREFETCHED} "
            f"batches of {batch_bytes / MIB:,.1f} MiB need {need_bytes / MIB:,.0f}; {REMEDY}"
        )


def share(batch: Any) -> Any:
    """The batch with its tensors in shared memory, or Unshared; unchanged in the rank's own process.

    A loader would put them there itself on the way out, in a thread whose errors nobody hears: the rank would wait for
    ever.
    """
    if get_worker_info() is None:
        return batch
    try:
        for tensor in _tensors(batch):
            tensor.share_memory_()
    except RuntimeError as error:
        return Unshared(f"a loader found no room in {PLACE} ({' '.join(str(error).split())}); {REMEDY}")
    return batch


def size_of(batch: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(batch))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
    elif is_dataclass(value):
        for part in fields(value):
            yield from _tensors(getattr(value, part.name))
