"""The sample stream: sample number `index` is a pure function of (cases, seed, index).

Which case, which crop, which augmentation: nothing depends on ranks, workers or history. A rank takes every `world`-th
micro-batch, so another number of ranks sees the same batches, and resuming needs only the step. A block of
micro-batches is of one source, so that ranks that work side by side need not wait for the dearest source among them.

On a CPU the loader's processes finish the batches. For a GPU they ship the bricks that the patches need as they are
stored (model/data/payload.py); the rank decodes and augments them there.
"""

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model.data import shared_memory
from model.data.augment import Region, box_of, read_region
from model.data.casefile import Case, CaseArray, CaseRecord
from model.data.draws import AugmentConfig, Draw, Purpose, draw, generator
from model.data.payload import CutRegion, PackedBatch, RawBatch, cut_region, pack
from model.data.targets import Meaning, Targets, meaning
from model.network.config import MODALITIES, rows_of

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """B patches of one source. `image` (B, C, D, H, W) float32, `modality` (B, C), `target` (B, D, H, W) long, whose
    values `targets` explains, a sample each. `spacing_mm` (D, H, W). `cases`: their ids; `index`: of the first sample
    in the stream."""

    image: Tensor
    modality: Tensor
    target: Tensor
    targets: tuple[Targets, ...]
    spacing_mm: tuple[float, float, float]
    cases: tuple[str, ...]
    index: int = 0

    def to(self, device: torch.device) -> "Batch":
        image, modality, target = (
            tensor.to(device, non_blocking=True) for tensor in (self.image, self.modality, self.target)
        )
        return replace(self, image=image, modality=modality, target=target)


@dataclass(frozen=True)
class Patch:
    """Which voxels of a case are taken, and what is made of them: `centre_vox` and `shape` as in read_region."""

    case: Case
    centre_vox: tuple[float, float, float]
    shape: tuple[int, int, int]
    draw: Draw

    def read(self) -> Region:
        return read_region(self.case.image, self.case.label, self.centre_vox, self.shape, self.draw)

    def cut(self) -> CutRegion:
        """Of a case in a file: the bricks, undecoded."""
        box = box_of(self.case.label.shape, self.centre_vox, self.shape, self.draw)
        return cut_region(self.case.image, self.case.label, box, self.shape, self.draw)


@dataclass(frozen=True)
class StreamConfig:
    """`classes`: structure of every class but background, in the network's order. `structures`: id of every structure
    that a case annotates; `covers`: the classes (from 1 on) of those that are no class. `regions`: trained as a whole,
    too. `patch_size` by source. `modalities`: the network's, by row. `source_block`: consecutive micro-batches of one
    source, from a multiple of it on."""

    classes: tuple[str, ...]
    structures: Mapping[str, int]
    patch_size: Mapping[str, tuple[int, int, int]]
    micro_batch: int
    seed: int
    foreground_fraction: float
    source_balance: float
    augment: AugmentConfig
    covers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    regions: tuple[str, ...] = ()
    modalities: tuple[str, ...] = MODALITIES
    source_block: int = 1
    _known: dict[tuple[Any, ...], Meaning] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """What is known is found again: a table of 64 KiB for every set of annotated structures."""
        return {**self.__dict__, "_known": {}}

    def meaning(self, record: CaseRecord) -> Meaning:
        """What the label of a case means to the network. Raises ValueError as `targets.meaning`."""
        key = (record.annotated, record.undecided)
        if key not in self._known:
            own = {name: (index,) for index, name in enumerate(self.classes, start=1)}
            regions = {name: self.covers[name] for name in self.regions}
            covers = {**own, **self.covers}
            found = meaning(record.annotated, self.structures, covers, regions, len(self.classes) + 1)
            self._known[key] = replace(found, targets=replace(found.targets, undecided=record.undecided))
        return self._known[key]


class SampleStream(Dataset[Batch]):
    """An endless map-style dataset of micro-batches."""

    def __init__(self, cases: Sequence[Case], config: StreamConfig) -> None:
        self.config = config
        self.by_source: dict[str, list[Case]] = {}
        for case in cases:
            self.by_source.setdefault(case.record.source, []).append(case)
        self.sources = sorted(self.by_source)
        counts = np.array([len(self.by_source[source]) for source in self.sources], dtype=float)
        weights = counts ** (1 - config.source_balance)
        self.probabilities = weights / weights.sum()

    def __getitem__(self, index: int) -> Batch:
        """Micro-batch `index`: samples `index * micro_batch` and following."""
        return finish(self.raw(index), self.config)

    def raw(self, index: int) -> RawBatch:
        return _read(self._patches(index), index * self.config.micro_batch)

    def packed(self, index: int) -> PackedBatch | RawBatch:
        return _packed(self._patches(index), index * self.config.micro_batch)

    def source_of(self, index: int) -> str:
        """Of micro-batch `index`."""
        first = index - index % self.config.source_block
        rng = generator(self.config.seed, first * self.config.micro_batch, Purpose.SOURCE)
        return self.sources[rng.choice(len(self.sources), p=self.probabilities)]

    def batch_bytes(self, device: torch.device = CPU, looked_at: int = 4) -> int:
        """What the largest of some micro-batches of every source takes on its way from a loader to `device`."""
        largest = 0
        for source, number in product(self.sources, range(looked_at)):
            patches = [self._patch(source, number)]
            one = finish(_read(patches), self.config) if device == CPU else _packed(patches)
            largest = max(largest, self.config.micro_batch * shared_memory.size_of(one))
        return largest

    def _patches(self, index: int) -> list[Patch]:
        first, source = index * self.config.micro_batch, self.source_of(index)
        return [self._patch(source, first + offset) for offset in range(self.config.micro_batch)]

    def _patch(self, source: str, number: int) -> Patch:
        rng = generator(self.config.seed, number, Purpose.PATCH)
        case = self.by_source[source][rng.integers(len(self.by_source[source]))]
        shape = self.config.patch_size[source]
        centre = _centre(case, shape, self.config, rng)
        change = draw(self.config.augment, case.image.shape[0], shape, case.record.spacing_mm, rng)
        return Patch(case, centre, shape, change)


class RawStream(Dataset[PackedBatch | RawBatch]):
    """The same stream before augmentation, as loaders ship it to a GPU's rank."""

    def __init__(self, stream: SampleStream) -> None:
        self.stream = stream

    def __getitem__(self, index: int) -> PackedBatch | RawBatch:
        return self.stream.packed(index)


def _read(patches: Sequence[Patch], first: int = 0) -> RawBatch:
    return RawBatch(tuple(patch.read() for patch in patches), tuple(patch.case.record for patch in patches), first)


def _packed(patches: Sequence[Patch], first: int = 0) -> PackedBatch | RawBatch:
    """Undecoded; cases that lie in memory have no bricks, and are read as they are."""
    if not all(isinstance(patch.case.image, CaseArray) for patch in patches):
        return _read(patches, first)
    return pack([patch.cut() for patch in patches], [patch.case.record for patch in patches], first)


def finish(raw: RawBatch, config: StreamConfig) -> Batch:
    """Augment every sample, on the device where it lies, and collate."""
    return collate(raw.records, [region.augmented() for region in raw.regions], config, raw.index)


def collate(
    records: Sequence[CaseRecord], patches: Sequence[tuple[Tensor, Tensor]], config: StreamConfig, index: int = 0
) -> Batch:
    """Stack patches; a case with fewer channels than its neighbours is filled up with absent ones."""
    device = patches[0][0].device
    channels = max(len(record.modalities) for record in records)
    image = torch.zeros(len(records), channels, *patches[0][1].shape, device=device)
    modality = torch.zeros(len(records), channels, dtype=torch.long)
    target = torch.zeros(len(records), *patches[0][1].shape, dtype=torch.long, device=device)
    meant = [config.meaning(record) for record in records]
    for row, (record, (patch, label)) in enumerate(zip(records, patches, strict=True)):
        image[row, : len(patch)] = patch
        modality[row, : len(patch)] = torch.tensor(rows_of(record.modalities, config.modalities))
        target[row] = torch.from_numpy(meant[row].values).to(device)[label.long()]
    ids = tuple(record.case_id for record in records)
    targets = tuple(each.targets for each in meant)
    return Batch(image, modality.to(device), target, targets, records[0].spacing_mm, ids, index)


def _centre(
    case: Case, patch_size: Sequence[int], config: StreamConfig, rng: np.random.Generator
) -> tuple[float, float, float]:
    """On a random voxel of a random structure, or anywhere a patch fits; a case smaller than the patch: its middle."""
    if len(case.foreground) and rng.random() < config.foreground_fraction:
        ids = case.foreground[:, 0]
        structure = rng.choice(np.unique(ids))
        d, h, w = case.foreground[rng.choice(np.flatnonzero(ids == structure)), 1:]
        centre = np.array([d, h, w], dtype=float)
    else:
        centre = np.array([rng.uniform(0, size) for size in case.label.shape])
    return keep_inside(centre, case.label.shape, patch_size)


def keep_inside(
    centre_vox: np.ndarray, case_size: Sequence[int], patch_size: Sequence[int]
) -> tuple[float, float, float]:
    """The centre nearest to it whose patch lies in the case; on an axis where none does, the case's middle."""
    low = [min(patch, size) / 2 for size, patch in zip(case_size, patch_size, strict=True)]
    high = [max(size - patch / 2, size / 2) for size, patch in zip(case_size, patch_size, strict=True)]
    d, h, w = np.clip(centre_vox, low, high)
    return float(d), float(h), float(w)


def loader(stream: SampleStream, indices: Sequence[int], workers: int, device: torch.device = CPU) -> Iterator[Batch]:
    """The micro-batches of `indices`, in order, on `device`; made ahead in `workers` processes (0: in this one)."""
    batches: DataLoader[Any] = DataLoader(
        stream if device == CPU else RawStream(stream),
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        collate_fn=shared_memory.share,
        pin_memory=device.type == "cuda",
        prefetch_factor=shared_memory.PREFETCHED if workers else None,
        worker_init_fn=_outlive_signals,
    )
    for batch in batches:
        if isinstance(batch, shared_memory.Unshared):
            raise ValueError(batch.reason)
        yield batch if device == CPU else finish(batch.to(device), stream.config)


def _outlive_signals(_worker: int) -> None:
    """A request to stop goes to the whole process group; the rank answers it, and the workers end with the rank."""
    torch.set_num_threads(1)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
