"""Does the network know when it is wrong? What a model's card says of it, so that prediction can use it.

By structure: risk-coverage of its own confidence, the rank correlation with Dice, and an interval for its volume; over
all voxels that anything was seen in, the calibration of its probabilities.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipelines.evaluation import confidence
from pipelines.evaluation.score import Score, structures_of

_COUNTED = ("counts", "right", "probability")
SIGNALS = ("confidence", "flip_dice")  # columns of a score that say how sure the network was


def of_structures(scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    """structure -> {"confidence": {risk_coverage, spearman}, "flip_dice": likewise if flips ran, "volume": its own}."""
    return {name: _of_structure([s for s in scores if s.structure == name]) for name in structures_of(scores)}


def calibrated(histograms: Sequence[Any]) -> dict[str, Any] | None:
    """Bins and expected error over all cases; None if none was counted. Each: `edges`, `counts`, `right`,
    `probability`."""
    known = [each for each in histograms if each is not None]
    if not known:
        return None
    counts, hits, sums = (np.sum([getattr(each, name) for each in known], axis=0) for name in _COUNTED)
    return asdict(confidence.reliability(known[0].edges, counts, hits, sums))


def _of_structure(scores: Sequence[Score]) -> dict[str, Any]:
    present = [score for score in scores if score.present]
    found: dict[str, Any] = {
        signal: _ranked([_said(score, signal) for score in present], [score.dice for score in present])
        for signal in SIGNALS
        if any(not math.isnan(getattr(score, signal)) for score in present)
    }
    places = [score.scanner or score.site or score.source for score in present]
    volume = confidence.conformal_volume(
        [score.predicted_ml for score in present],
        [score.reference_ml for score in present],
        [score.patient for score in present],
        places=places if len(set(places)) > 1 else None,
    )
    return {**found, "volume": asdict(volume)}


def _said(score: Score, signal: str) -> float:
    """What is missed warned nobody: it counts as the most certain answer (confidence.py)."""
    return float("nan") if score.status == "missed" else float(getattr(score, signal))


def _ranked(sure: Sequence[float], dice: Sequence[float]) -> dict[str, Any]:
    return {
        "risk_coverage": asdict(confidence.risk_coverage(sure, [1 - value for value in dice])),
        "spearman": confidence.spearman(sure, dice),
    }
