"""The sample stream: micro-batch number `index` is a pure function of (cases, seed, index).

Which source, which cases, which crops, which augmentation: nothing depends on ranks, workers or history. A rank takes
every `world`-th micro-batch, so another number of ranks sees the same batches, and resuming needs only the step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model.augment import PLAIN_CROP, AugmentConfig, sample_patch
from model.casefile import Case
from model.config import MODALITIES


@dataclass(frozen=True)
class Batch:
    """B patches of one source. `image` (B, C, D, H, W) float32, `modality` (B, C), `target` (B, D, H, W) class index,
    `annotated` (B, K) bool, class 0 always True. `spacing_mm` (D, H, W)."""

    image: Tensor
    modality: Tensor
    target: Tensor
    annotated: Tensor
    spacing_mm: tuple[float, float, float]

    def to(self, device: torch.device) -> "Batch":
        image, modality, target, annotated = (
            tensor.to(device, non_blocking=True) for tensor in (self.image, self.modality, self.target, self.annotated)
        )
        return Batch(image, modality, target, annotated, self.spacing_mm)


@dataclass(frozen=True)
class StreamConfig:
    """`classes`: structure id of every class but background, in the network's order. `patch_size` by source."""

    classes: tuple[int, ...]
    structures: Mapping[str, int]
    patch_size: Mapping[str, tuple[int, int, int]]
    micro_batch: int
    seed: int
    foreground_fraction: float
    source_balance: float
    augment: AugmentConfig


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
        rng = np.random.default_rng([self.config.seed, index])
        source = self.sources[rng.choice(len(self.sources), p=self.probabilities)]
        cases = self.by_source[source]
        chosen = rng.choice(len(cases), self.config.micro_batch, replace=len(cases) < self.config.micro_batch)
        patches = []
        for position in chosen:
            case = cases[position]
            patch_size = self.config.patch_size[source]
            centre = _centre(case, patch_size, self.config, rng)
            patches.append(
                sample_patch(
                    case.image, case.label, centre, patch_size, case.record.spacing_mm, self.config.augment, rng
                )
            )
        return collate([cases[position] for position in chosen], patches, self.config)


def validation_batches(cases: Sequence[Case], config: StreamConfig) -> Iterator[Batch]:
    """One plain patch around the middle of each case's foreground."""
    for case in cases:
        if len(case.foreground):
            patch_size = config.patch_size[case.record.source]
            centre = tuple(case.foreground[:, 1:].mean(axis=0))
            patch = sample_patch(
                case.image, case.label, centre, patch_size, case.record.spacing_mm, PLAIN_CROP, np.random.default_rng(0)
            )
            yield collate([case], [patch], config)


def collate(cases: Sequence[Case], patches: Sequence[tuple[Tensor, Tensor]], config: StreamConfig) -> Batch:
    """Stack patches; a case with fewer channels than its neighbours is filled up with absent ones."""
    channels = max(len(case.record.modalities) for case in cases)
    image = torch.zeros(len(cases), channels, *patches[0][1].shape)
    modality = torch.zeros(len(cases), channels, dtype=torch.long)
    annotated = torch.zeros(len(cases), len(config.classes) + 1, dtype=torch.bool)
    annotated[:, 0] = True
    for row, (case, (patch, _)) in enumerate(zip(cases, patches, strict=True)):
        image[row, : len(patch)] = patch
        modality[row, : len(patch)] = torch.tensor([MODALITIES.index(name) for name in case.record.modalities])
        for name in case.record.annotated:
            annotated[row, config.classes.index(config.structures[name]) + 1] = True
    table = torch.zeros(256, dtype=torch.long)
    table[list(config.classes)] = torch.arange(1, len(config.classes) + 1)
    target = table[torch.stack([label for _, label in patches]).long()]
    return Batch(image, modality, target, annotated, cases[0].record.spacing_mm)


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


def loader(stream: SampleStream, indices: Sequence[int], workers: int) -> DataLoader[Batch]:
    """The micro-batches of `indices`, in order, made ahead in `workers` processes (0: in this one)."""
    return DataLoader(stream, batch_size=None, sampler=indices, num_workers=workers, collate_fn=_as_is)


def _as_is(batch: Any) -> Any:
    return batch
