"""Scores as a cohort might have them."""

from dataclasses import replace
from typing import Any

from pipelines.evaluation.score import Score

NOTHING = float("nan")


def scored(case_id: str, dice: float, structure: str = "kidney", **others: Any) -> Score:
    """A structure of 2 ml that was found; 0: missed, NaN: absent."""
    status = "absent" if dice != dice else "scored" if dice else "missed"
    plain = Score(
        case_id, case_id, "kits", "ct", structure=structure, status=status, dice=dice, surface_dice=dice,
        hd95_mm=NOTHING if dice != dice else 10 * (1 - dice), mean_surface_mm=NOTHING if dice != dice else 1 - dice,
        volume_error_percent=NOTHING if dice != dice else 200 * (1 - dice),
        reference_ml=0.0 if dice != dice else 2.0, predicted_ml=0.0 if dice != dice or not dice else 2.0,
        true_positives=900, false_negatives=100, border_share=0.2, slice_mm=1.0,
    )  # fmt: skip
    return replace(plain, **others)


def cohort(count: int = 20, **others: Any) -> list[Score]:
    return [scored(f"case-{index:02d}", 0.7 + 0.01 * index, **others) for index in range(count)]
