"""The sample stream: sample number `index` is a pure function of (cases, seed, index).

Which case, which crop, which augmentation: nothing depends on ranks, workers or history. A rank takes every `world`-th
micro-batch, so another number of ranks sees the same batches, and resuming needs only the step. A micro-batch is of one
source, which is a function of the seed and of its first sample's number.

On a CPU the loader's processes finish the batches. For a GPU they only read the regions that the patches need, and the
rank augments them there.
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
from model.data.augment import Region, read_region
from model.data.casefile import Case, CaseRecord
from model.data.draws import PLAIN_CROP, AugmentConfig, draw
from model.data.targets import Meaning, Targets, meaning
from model.network.config import MODALITIES, rows_of

CPU = torch.device("cpu")
SOURCE, PATCH = 0, 1  # what a random number is for: the source of a micro-batch, or all of one sample


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
class RawBatch:
    """A micro-batch that is read but not augmented: one region and one record a sample. `index` as in Batch."""

    regions: tuple[Region, ...]
    records: tuple[CaseRecord, ...]
    index: int = 0

    def to(self, device: torch.device) -> "RawBatch":
        return replace(self, regions=tuple(region.to(device) for region in self.regions))

    def pin_memory(self) -> "RawBatch":
        """What the loader calls to make copies to a GPU asynchronous."""
        return replace(self, regions=tuple(region.pin_memory() for region in self.regions))


@dataclass(frozen=True)
class StreamConfig:
    """`classes`: structure of every class but background, in the network's order. `structures`: id of every structure
    that a case annotates; `covers`: the classes (from 1 on) of those that are no class. `regions`: trained as a whole,
    too. `patch_size` by source. `modalities`: the network's, by row."""

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
    _known: dict[tuple[Any, ...], Meaning] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        first = index * self.config.micro_batch
        rng = np.random.default_rng([self.config.seed, first, SOURCE])
        source = self.sources[rng.choice(len(self.sources), p=self.probabilities)]
        samples = [self._sample(source, first + offset) for offset in range(self.config.micro_batch)]
        return RawBatch(tuple(region for region, _ in samples), tuple(record for _, record in samples), first)

    def _sample(self, source: str, number: int) -> tuple[Region, CaseRecord]:
        rng = np.random.default_rng([self.config.seed, number, PATCH])
        case = self.by_source[source][rng.integers(len(self.by_source[source]))]
        shape = self.config.patch_size[source]
        centre = _centre(case, shape, self.config, rng)
        change = draw(self.config.augment, case.image.shape[0], shape, case.record.spacing_mm, rng)
        return read_region(case.image, case.label, centre, shape, change), case.record

    def batch_bytes(self, device: torch.device = CPU, looked_at: int = 4) -> int:
        """What the largest of some micro-batches of every source takes on its way from a loader to `device`."""
        largest = 0
        for source, number in product(self.sources, range(looked_at)):
            region, record = self._sample(source, number)
            raw = RawBatch((region,), (record,))
            one = raw if device != CPU else finish(raw, self.config)
            largest = max(largest, self.config.micro_batch * shared_memory.size_of(one))
        return largest


class RawStream(Dataset[RawBatch]):
    """The same stream before augmentation."""

    def __init__(self, stream: SampleStream) -> None:
        self.stream = stream

    def __getitem__(self, index: int) -> RawBatch:
        return self.stream.raw(index)


def validation_batch(case: Case, config: StreamConfig) -> Batch:
    """One plain patch around the middle of the case's foreground, or of an unlabelled case."""
    shape = config.patch_size[case.record.source]
    middle = [size / 2 for size in case.label.shape]
    centre = tuple(case.foreground[:, 1:].mean(axis=0)) if len(case.foreground) else middle
    plain = draw(PLAIN_CROP, case.image.shape[0], shape, case.record.spacing_mm, np.random.default_rng(0))
    return finish(RawBatch((read_region(case.image, case.label, centre, shape, plain),), (case.record,)), config)


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
    for axis, (size, patch) in enumerate(zip(case.label.shape, patch_size, strict=True)):
        low, high = min(patch / 2, size / 2), max(size - patch / 2, size / 2)  # keep the patch inside where it fits
        centre[axis] = centre[axis].clip(low, high)
    return float(centre[0]), float(centre[1]), float(centre[2])


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
