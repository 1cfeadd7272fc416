"""Measure one case: every structure and region that was annotated, on one grid.

    scores = measure(subject, reference, predicted, spacing_mm, annotated, words)

A missed or invented structure counts as the worst there is: Dice, surface Dice and lesion figures 0, distances the
image's diagonal, volume error 200 %. So no figure of a case gets better by a miss.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from model.metrics import lesions, overlap, surfaces
from pipelines.evaluation.score import NOTHING, Score, Status, Subject
from pipelines.scans.structure import IGNORED, Structure
from pipelines.scans.vocabulary import Vocabulary

Box = tuple[slice, slice, slice]
FINDING = "49755003"  # SNOMED CT: Morphologically Abnormal Structure; its parts are lesions
MM3_PER_ML = 1000.0
WORST_VOLUME_ERROR_PERCENT = 200.0


@dataclass(frozen=True)
class Told:
    """What the network itself said of a case, by structure: Soft Dice Confidence, and the Dice between its views."""

    confidence: Mapping[str, float] = field(default_factory=dict)
    flip_dice: Mapping[str, float] = field(default_factory=dict)


def measure(
    subject: Subject,
    reference: np.ndarray,
    predicted: np.ndarray,
    spacing_mm: tuple[float, float, float],
    annotated: Sequence[str],
    words: Vocabulary,
    never_drawn: frozenset[str] = frozenset(),
    told: Told | None = None,
) -> list[Score]:
    """A score for every annotated structure but those `never_drawn`, and for every union of annotated parts.

    `reference`, `predicted`: structure ids on one grid, any integer type. Voxels that nobody decided on (IGNORED in the
    reference) count in neither. `spacing_mm` follows the axes. Raises ValueError if the shapes differ.
    """
    if reference.shape != predicted.shape:
        raise ValueError(f"its reference has shape {reference.shape}, the prediction {predicted.shape}; use one grid")
    if (undecided := reference == IGNORED).any():
        reference, predicted = np.where(undecided, 0, reference), np.where(undecided, 0, predicted)
    grid = _Grid(reference, predicted, spacing_mm)
    told = told or Told()
    return [
        _score(subject, words[name], grid, words.covered_ids(name), told)
        for name in scored_names(annotated, words, never_drawn)
    ]


def scored_names(annotated: Sequence[str], words: Vocabulary, never_drawn: frozenset[str] = frozenset()) -> list[str]:
    """Structures that were annotated, then the unions all of whose parts were; not those that no scan ever showed."""
    unions = [
        name
        for name, each in words.items()
        if each.parts and name not in annotated and set(each.parts) <= set(annotated)
    ]
    drawn = [name for name in annotated if name not in never_drawn]
    return drawn + [name for name in unions if not set(words[name].parts) <= never_drawn]


class _Grid:
    """Two label maps of one shape, and where in them each value lies, so that a small structure costs little."""

    def __init__(self, reference: np.ndarray, predicted: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
        self.maps = (reference, predicted)
        self.spacing_mm = spacing_mm
        self.shape = reference.shape
        self.diagonal_mm = math.dist((0, 0, 0), [n * mm for n, mm in zip(self.shape, spacing_mm, strict=True)])
        self._boxes = [_boxes(each) for each in self.maps]

    def masks(self, ids: Sequence[int]) -> Iterator[np.ndarray]:
        """Of the reference and of the prediction, within the box that holds both."""
        within = self.box(ids)
        return (np.isin(each[within], ids) for each in self.maps)

    def box(self, ids: Sequence[int], of: slice = slice(None)) -> Box:
        """Empty where neither has any of these values. `of`: both maps, or one of them."""
        found = [boxes[value] for boxes in self._boxes[of] for value in ids if value in boxes]
        if not found:
            return (slice(0, 0),) * 3
        d, h, w = (slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*found, strict=True))
        return d, h, w

    def is_cut(self, ids: Sequence[int]) -> bool:
        """Does the reference reach a border of the image?"""
        box = self.box(ids, slice(0, 1))
        return any(s.stop and (s.start == 0 or s.stop == n) for s, n in zip(box, self.shape, strict=True))


def _boxes(labels: np.ndarray) -> dict[int, Box]:
    """Value -> the box that holds it."""
    return {value: box for value, box in enumerate(ndimage.find_objects(labels), start=1) if box}


def _score(subject: Subject, structure: Structure, grid: _Grid, ids: Sequence[int], told: Told) -> Score:
    reference, predicted = grid.masks(ids)
    counts = overlap.counts(reference, predicted)
    voxel_ml = math.prod(grid.spacing_mm) / MM3_PER_ML
    reference_voxels, predicted_voxels = counts.tp + counts.fn, counts.tp + counts.fp
    status = _status(reference_voxels, predicted_voxels)
    return Score(
        **asdict(subject),
        structure=structure.name,
        status=status,
        cut=grid.is_cut(ids),
        dice=overlap.dice(reference, predicted),
        **_distances(reference, predicted, grid, structure.tolerance_mm, status),
        volume_error_percent=_volume_error(reference_voxels, predicted_voxels, status),
        reference_ml=reference_voxels * voxel_ml,
        predicted_ml=predicted_voxels * voxel_ml,
        true_positives=counts.tp,
        false_positives=counts.fp,
        false_negatives=counts.fn,
        true_negatives=math.prod(grid.shape) - counts.tp - counts.fp - counts.fn,
        border_share=_border_share(reference),
        diagonal_mm=grid.diagonal_mm,
        **(_lesions(reference, predicted, grid.spacing_mm) if structure.category.value == FINDING else {}),
        confidence=told.confidence.get(structure.name, NOTHING),
        flip_dice=told.flip_dice.get(structure.name, NOTHING),
    )


def _status(reference_voxels: int, predicted_voxels: int) -> Status:
    if reference_voxels and predicted_voxels:
        return "scored"
    return "missed" if reference_voxels else "invented" if predicted_voxels else "absent"


def _distances(
    reference: np.ndarray, predicted: np.ndarray, grid: _Grid, tolerance_mm: float, status: Status
) -> dict[str, Any]:
    if status == "absent":
        return {}
    if status != "scored":
        return {"surface_dice": 0.0, "hd95_mm": grid.diagonal_mm, "mean_surface_mm": grid.diagonal_mm}
    both = surfaces.between(reference, predicted, grid.spacing_mm)
    return {
        "surface_dice": both.dice(tolerance_mm),
        "hd95_mm": both.hausdorff_mm(95),
        "mean_surface_mm": both.mean_mm(),
    }


def _volume_error(reference_voxels: int, predicted_voxels: int, status: Status) -> float:
    if status == "absent":
        return NOTHING
    total = reference_voxels + predicted_voxels
    return WORST_VOLUME_ERROR_PERCENT * abs(predicted_voxels - reference_voxels) / total


def _border_share(mask: np.ndarray) -> float:
    """Of a mask's voxels those with one of their six neighbours outside it, or at the border of the image."""
    total = int(mask.sum())
    return 1 - int(ndimage.binary_erosion(mask).sum()) / total if total else NOTHING


def _lesions(reference: np.ndarray, predicted: np.ndarray, spacing_mm: tuple[float, float, float]) -> dict[str, Any]:
    found = lesions.detect(reference, predicted, spacing_mm)
    found_ml = tuple(pair.reference_mm3 / MM3_PER_ML for pair in found.pairs)
    return {
        "lesions": len(found.pairs) + len(found.missed_mm3),
        "lesions_found": len(found.pairs),
        "lesions_invented": len(found.spurious_mm3),
        "lesion_sensitivity": found.sensitivity,
        "lesion_precision": 0.0 if found.missed_mm3 and not found.pairs else found.precision,
        "lesion_f1": found.f1,
        "lesions_ml": (*found_ml, *(mm3 / MM3_PER_ML for mm3 in found.missed_mm3)),
        "lesions_found_ml": found_ml,
    }
