"""The scores as other programs write them: nnU-Net's summary.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.score import Score, structures_of
from pipelines.scans.vocabulary import Vocabulary

NNUNET = "summary.json"
_KEYS = ("Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref")


def write_nnunet(path: Path, scores: Sequence[Score], words: Vocabulary) -> None:
    """As `nnUNetv2_evaluate_folder` does, 2.8: labels by value, regions by the tuple of their values.

    What neither has is NaN there, spelled so in the JSON; means leave it out. `foreground_mean` is over labels and
    regions alike, as theirs.
    """
    names = {name: _key(words.covered_ids(name), words) for name in structures_of(scores)}
    cases: dict[str, dict[str, Any]] = {}
    for score in scores:
        cases.setdefault(score.case_id, {})[names[score.structure]] = _counts(score)
    mean = {
        key: {figure: _mean([case[key][figure] for case in cases.values() if key in case]) for figure in _KEYS}
        for key in names.values()
    }
    content = {
        "foreground_mean": {figure: _mean([each[figure] for each in mean.values()]) for figure in _KEYS},
        "mean": mean,
        "metric_per_case": [
            {"metrics": metrics, "prediction_file": case_id, "reference_file": case_id}
            for case_id, metrics in cases.items()
        ],
    }
    path.write_text(json.dumps(content, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def _key(ids: Sequence[int], words: Vocabulary) -> str:
    """Values that a map can hold; those of unions inside a region only name it."""
    values = [value for value in ids if not words.by_id[value].parts]
    return str(values[0]) if len(values) == 1 else str(tuple(values))


def _counts(score: Score) -> dict[str, float | int]:
    tp, fp, fn = score.true_positives, score.false_positives, score.false_negatives
    return {
        "Dice": score.dice,
        "FN": fn,
        "FP": fp,
        "IoU": tp / (tp + fp + fn) if tp + fp + fn else float("nan"),
        "TN": score.true_negatives,
        "TP": tp,
        "n_pred": tp + fp,
        "n_ref": tp + fn,
    }


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
