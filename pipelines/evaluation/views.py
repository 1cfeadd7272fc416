"""Cases to look at, for the report: the scan as grey values, the reference and one prediction or two, on one grid."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipelines.evaluation.score import Score
from pipelines.pages.drawing import CT_WINDOW_HU, Window, grey, window_of
from pipelines.pages.evaluation.content import Viewed
from pipelines.scans import labels, scan_files
from pipelines.scans.manifest import Row
from pipelines.scans.modalities import in_hu
from pipelines.scans.structure import IGNORED
from pipelines.scans.volume import read


def of_case(row: Row, predictions: Mapping[str, Path], scores: Sequence[Score]) -> Viewed:
    """A held-out case. `predictions`: layer -> label map of structure ids. Raises ValueError as reading does."""
    image = scan_files.read(row, row.images[0])
    window = CT_WINDOW_HU if in_hu(row.images[0].role) else None
    layers = {"reference": labels.read(row), **{name: label_map(path) for name, path in predictions.items()}}
    return viewed(row.case_id, image.array, window, image.spacing_mm, layers, scores)


def viewed(
    case_id: str,
    image: np.ndarray | None,
    window: Window | None,
    spacing_mm: tuple[float, float, float],
    layers: Mapping[str, np.ndarray],
    scores: Sequence[Score],
) -> Viewed:
    """`image`: (D, H, W), None if nobody gave one. `window`: the image's own if None."""
    shape = next(iter(layers.values())).shape
    shades = np.zeros(shape, np.uint8) if image is None else grey(image, window or window_of(image))
    decided = {name: np.where(layer == IGNORED, 0, layer).astype(layer.dtype) for name, layer in layers.items()}
    return Viewed(case_id, title(case_id, scores), shades, spacing_mm, decided)


def title(case_id: str, scores: Sequence[Score]) -> str:
    """The case and its worst structure."""
    own = [score for score in scores if score.case_id == case_id and score.present]
    if not own:
        return case_id
    worst = min(own, key=lambda score: score.dice)
    return f"{case_id}: {worst.structure.replace('_', ' ')} {worst.dice:.3f}"


def label_map(path: Path) -> np.ndarray:
    """(D, H, W), whole numbers."""
    return np.rint(read(path).array).astype(np.int16)
