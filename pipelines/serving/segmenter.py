"""Segment one preprocessed scan with a trained network: what evaluation and prediction share.

Probabilities of a scan are never there as a whole: they come in blocks (model/tasks/inference.py), and of each block
its label, on both grids, and what it says of its own certainty are kept.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np
import torch

from model import weights
from model.data.targets import meaning
from model.network.config import rows_of
from model.network.medsegformer import MedSegFormer
from model.tasks.inference import Tally, blocks, largest
from model.tasks.layout import Layout
from model.tasks.windows import Blended
from model.weights_file import Card
from pipelines.cases.preparation import Preprocessing
from pipelines.scans import vocabulary
from pipelines.scans.contracts import smallest_type
from pipelines.scans.volume import restore
from pipelines.scans.volume_geometry import Geometry
from pipelines.serving import footprint
from pipelines.serving.bottleneck import Bottleneck
from pipelines.serving.certainty import Calibrating, Certainty, CertaintyCounts, agreement
from pipelines.serving.conditions import Conditions, device, precision_of
from pipelines.serving.regridding import MostLikely
from pipelines.work import memory, progress
from pipelines.work.cores import workers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segmented:
    """What a network says of a scan.

    `label`: structure ids, uint8 or int16, on the file's own grid (i, j, k); `on_grid` on the network's (D, H, W).
    By structure, unions of what the network tells included: `confidence`, Soft Dice Confidence (0 where nothing was
    found); `volume_ml`, the sum of its probabilities; `flip_dice`, mean Dice of all pairs of mirrored views, NaN where
    none has it, empty without flips. `reliability`: with a reference, by EVERYTHING and FOREGROUND. `bottleneck` (E,):
    mean features of the encoder's deepest level.
    """

    label: np.ndarray
    on_grid: np.ndarray
    confidence: Mapping[str, float]
    volume_ml: Mapping[str, float]
    flip_dice: Mapping[str, float] = field(default_factory=dict)
    reliability: Mapping[str, CertaintyCounts] = field(default_factory=dict)
    bottleneck: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass
class Segmenter:
    """A network, its card, and how to run it. Made once, used for many scans."""

    network: MedSegFormer
    card: Card
    overlap: float
    device: torch.device
    precision: torch.dtype
    flips: tuple[int, ...] = ()
    threads: int = 1

    @staticmethod
    def load(path: Path, conditions: Conditions, threads: int = 1) -> "Segmenter":
        """On the first GPU if there is one. `conditions`: `checked`, where they are of an earlier evaluation.
        `threads`: of a CPU, each at windows of its own."""
        network, card = weights.load(path)
        where = device()
        precision = precision_of(where)
        return Segmenter(network.to(where), card, conditions.overlap, where, precision, conditions.flips, threads)

    @property
    def plan(self) -> Preprocessing:
        return Preprocessing.from_json(self.card.preprocessing)

    def segment(
        self,
        image: np.ndarray,
        modalities: Sequence[str],
        source: str,
        geometry: Geometry,
        reference: np.ndarray | None = None,
        annotated: Sequence[str] | None = None,
    ) -> Segmented:
        """`image` (C, D, H, W) as `pipelines.cases.preparation` makes it. `source`: the training source whose grid,
        patch and structures apply. `reference` (D, H, W): structure ids on the network's grid, for `reliability`, and
        what is `annotated` in it, if not all that the source has. Raises ValueError if the network gives no numbers.
        """
        shown = self.shown(source)
        told = _Told(shown, image.shape[1:], geometry, self._layout(image, source))
        if reference is not None:
            every = self.plan.sources[source].annotated
            told.calibrating = self._calibrating(shown, every if annotated is None else annotated)
        tally = Tally()
        with Bottleneck(self.network) as seen, memory.kept():
            for block in self._blocks(image, modalities, source, shown, tally):
                told.take(block, reference)
        if tally.repeated:
            log.warning(
                "%d of %d windows overflowed in %s and were repeated in float32",
                tally.repeated, tally.runs, str(self.precision).removeprefix("torch."),
            )  # fmt: skip
        return told.segmented(tally, seen.mean)

    def _blocks(
        self, image: np.ndarray, modalities: Sequence[str], source: str, shown: "Shown", tally: Tally
    ) -> Iterator[Blended]:
        window, layout = self.card.patch_size[source], self._layout(image, source)
        return blocks(
            self.network,
            torch.from_numpy(np.asarray(image, dtype=np.float32)).to(self.device),
            torch.tensor(rows_of(modalities, self.network.config.modalities), device=self.device),
            self.plan.sources[source].spacing_mm,
            shown.groups,
            window,
            overlap=self.overlap,
            precision=self.precision,
            batch=footprint.windows_at_a_time(self.card, window, self.flips, 4 * len(shown.groups) * layout.held),
            threads=self.threads,
            flips=self.flips,
            tally=tally,
        )

    def _layout(self, image: np.ndarray, source: str) -> Layout:
        return Layout.of(image.shape[1:], self.card.patch_size[source], self.overlap)

    def shown(self, source: str) -> "Shown":
        """What a source tells from background: the classes within a structure it annotated, and unions of them."""
        words = vocabulary.of_records(self.card.vocabulary)
        annotated = self.plan.sources[source].annotated
        wholes = [words.atoms(name) for name in annotated if name in words]
        atoms = {number: words.atoms(name) for number, name in enumerate(self.card.classes, start=1)}
        known = [number for number, own in atoms.items() if any(own <= whole for whole in wholes)]
        unknown = [number for number in atoms if number not in known]
        ids = [0, *(self.card.structures[self.card.classes[number - 1]] for number in known)]
        members = {}
        for name in words:
            inside = [place for place, number in enumerate(known, start=1) if atoms[number] <= words.atoms(name)]
            if inside and frozenset().union(*(atoms[known[place - 1]] for place in inside)) == words.atoms(name):
                members[name] = inside
        kind = smallest_type(max(ids))
        return Shown([(0, *unknown), *((number,) for number in known)], np.asarray(ids, kind), members)

    def _calibrating(self, shown: "Shown", annotated: Sequence[str]) -> Calibrating:
        """Raises ValueError if structures of the reference overlap."""
        words = vocabulary.of_records(self.card.vocabulary)
        names = [name for name in annotated if name in words and name in self.card.structures]
        covers = {
            name: tuple(n for n, each in enumerate(self.card.classes, 1) if words.atoms(each) <= words.atoms(name))
            for name in names
        }
        found = meaning(names, self.card.structures, covers, {}, len(self.card.classes) + 1)
        values = found.targets.values(len(self.card.classes) + 1)
        return Calibrating(found, [values[group[0]] for group in shown.groups])


@dataclass(frozen=True)
class Shown:
    """`groups` of classes, background's first; `ids` (G,): the structure of each; `members`: of each structure that can
    be told, the groups it is made of."""

    groups: list[tuple[int, ...]]
    ids: np.ndarray
    members: dict[str, list[int]]


class _Told:
    """What is kept of the blocks of a scan."""

    def __init__(self, shown: Shown, size: tuple[int, ...], geometry: Geometry, layout: Layout) -> None:
        self.shown, self.geometry = shown, geometry
        self.on_grid = np.zeros(size, shown.ids.dtype)
        self.certainty = Certainty(shown.members, len(shown.ids))
        same = size == geometry.crop_shape
        self.most_likely = None if same else MostLikely(size, geometry.crop_shape, shown.ids, layout.order)
        self.calibrating: Calibrating | None = None
        self.done = 0

    def take(self, block: Blended, reference: np.ndarray | None) -> None:
        best, which = largest(block.probability)
        self.on_grid[block.box] = self.shown.ids[which.cpu().numpy()]
        self.done += which.numel()
        progress.share(self.done / self.on_grid.size)
        self.certainty.take(block.probability, best, which)
        if self.most_likely is not None:
            self.most_likely.take(block.corner, block.probability.cpu().numpy())
        if self.calibrating is not None and reference is not None:
            self.calibrating.take(np.asarray(reference[block.box]), block.probability, best, which)

    def segmented(self, tally: Tally, bottleneck: np.ndarray) -> Segmented:
        crop = self.geometry.crop_shape
        voxel_ml = prod(self.geometry.spacing_mm) * prod(crop) / self.on_grid.size / 1000
        label = self.on_grid if self.most_likely is None else self.most_likely.label
        return Segmented(
            restore(label, self.geometry),
            self.on_grid,
            self.certainty.confidence(),
            {name: voxels * voxel_ml for name, voxels in self.certainty.voxels().items()},
            {} if tally.pairs is None else agreement(self.shown.members, tally.pairs.cpu().numpy()),
            {} if self.calibrating is None else self.calibrating.found,
            bottleneck,
        )


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
