"""Segment one preprocessed scan with a trained network: what evaluation and prediction share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from model import weights
from model.network.config import rows_of
from model.network.medsegformer import MedSegFormer
from model.tasks.inference import sliding_window
from model.weights_file import Card
from pipelines.cases.preparation import Preprocessing
from pipelines.cases.resampling import resample
from pipelines.scans import vocabulary
from pipelines.scans.contracts import smallest_type
from pipelines.scans.volume import Geometry, restore
from pipelines.serving.conditions import Conditions, device, precision_of
from pipelines.work.cores import workers


@dataclass
class Segmenter:
    """A network, its card, and how to run it. Made once, used for many scans."""

    network: MedSegFormer
    card: Card
    overlap: float
    device: torch.device
    precision: torch.dtype
    predicted_on_grid: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint8))

    @staticmethod
    def load(path: Path, conditions: Conditions) -> "Segmenter":
        """On the first GPU if there is one. `conditions`: `checked`, where they are of an earlier evaluation."""
        network, card = weights.load(path)
        where = device()
        return Segmenter(network.to(where), card, conditions.overlap, where, precision_of(where))

    @property
    def plan(self) -> Preprocessing:
        return Preprocessing.from_json(self.card.preprocessing)

    def segment(self, image: np.ndarray, modalities: Sequence[str], source: str, geometry: Geometry) -> np.ndarray:
        """Structure ids, uint8 or int16, on the file's own grid.

        `image` (C, D, H, W) as `pipelines.cases.preparation` makes it. `source`: the training source whose grid, patch
        and structures apply.
        """
        record = self.plan.sources[source]
        known = self._shown(record.annotated)
        unknown = [index for index in range(1, len(self.card.classes) + 1) if index not in known]
        probability = sliding_window(
            self.network,
            torch.from_numpy(np.asarray(image, dtype=np.float32)).to(self.device),
            torch.tensor(rows_of(modalities, self.network.config.modalities), device=self.device),
            record.spacing_mm,
            [(0, *unknown), *((index,) for index in known)],
            self.card.patch_size[source],
            self.overlap,
            self.precision,
        )
        ids = [0, *(self.card.structures[self.card.classes[index - 1]] for index in known)]
        kind = smallest_type(max(ids))
        self.predicted_on_grid = np.asarray(ids, kind)[probability.argmax(0).cpu().numpy()]
        return restore(most_likely(probability.cpu().numpy(), np.asarray(ids, kind), geometry.crop_shape), geometry)

    def _shown(self, annotated: Sequence[str]) -> list[int]:
        """Numbers of the classes that a source tells from background: those within a structure it annotated."""
        words = vocabulary.of_records(self.card.vocabulary)
        wholes = [words.atoms(name) for name in annotated if name in words]
        return [
            number
            for number, name in enumerate(self.card.classes, start=1)
            if any(words.atoms(name) <= whole for whole in wholes)
        ]


def scans_at_a_time() -> int:
    """Processes of a network each: one on a GPU; on CPU one a core, each on one thread.

    A window is too small to share: 41 hippocampi took 18 s on two threads, 5 s as one scan a core.
    """
    # not `is_available`: that would start CUDA in this process, and none that is forked from it could use a GPU
    return 1 if torch.cuda.device_count() else workers()


@lru_cache(maxsize=1)
def cached_segmenter(weights: Path, conditions: Conditions) -> Segmenter:
    """One per process, on one thread."""
    torch.set_num_threads(1)
    return Segmenter.load(weights, conditions)


def most_likely(probability: np.ndarray, ids: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Resample each id's probability (G, d, h, w) to `shape` and keep the largest: one at a time in memory."""
    best = np.full(shape, -1, dtype=np.float32)
    label = np.zeros(shape, dtype=ids.dtype)
    for index, identifier in enumerate(ids):
        share = resample(probability[index], shape, order=1)
        wins = share > best
        best[wins] = share[wins]
        label[wins] = identifier
    return label
