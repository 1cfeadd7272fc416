"""What every figure of an evaluation means: its unit, which way is better, its edge cases, and whose definition it is.

The field's tools disagree with each other under one name, so each of ours is named; docs/metrics.md compares them.
"""

from dataclasses import dataclass
from typing import Literal

from pipelines.evaluation.statistics import FEWEST_FOR_DISTANCE


@dataclass(frozen=True)
class Metric:
    """One figure of a structure in a case. `fewest`: patients from which its mean has an interval,
    if other than those of any mean."""

    key: str
    name: str
    unit: str
    better: Literal["higher", "lower"]
    digits: int
    definition: str
    edges: str
    source: str
    fewest: int | None = None


_ABSENT = "In neither reference nor prediction: no value; the case is counted as absent."

METRICS = (
    Metric(
        "dice",
        "Dice",
        "",
        "higher",
        3,
        "Twice the voxels that both have, over the voxels of both.",
        f"Missed or invented: 0. {_ABSENT}",
        "Dice 1945; as MONAI, nnU-Net and scikit-learn's F1",
    ),
    Metric(
        "surface_dice",
        "Surface Dice",
        "",
        "higher",
        3,
        "Area of both surfaces that lies within the tolerance of the other, over the area of both. The tolerance in mm "
        "is the structure's own.",
        f"Missed or invented: 0. {_ABSENT}",
        "Nikolov et al. 2018 (arXiv 1809.04430), surface elements weighted by area as surface-distance 0.1",
    ),
    Metric(
        "hd95_mm",
        "HD95",
        "mm",
        "lower",
        1,
        "The distance to the other surface that 95 % of a surface's area keep to; the larger of the two directions.",
        f"Missed or invented: the diagonal of the image. {_ABSENT}",
        "Nikolov et al. 2018, as surface-distance 0.1; not MONAI's, which counts voxels and not area",
        FEWEST_FOR_DISTANCE,
    ),
    Metric(
        "mean_surface_mm",
        "Mean surface distance",
        "mm",
        "lower",
        2,
        "The mean distance of a surface's area to the other surface; the mean of the two directions.",
        f"Missed or invented: the diagonal of the image. {_ABSENT}",
        "surface-distance 0.1, average of both directions",
    ),
    Metric(
        "volume_error_percent",
        "Volume error",
        "%",
        "lower",
        1,
        "The difference of the two volumes, over their mean: from 0 to 200 %. Of their mean, not of the reference, so "
        "that nothing is worse than to miss a structure.",
        f"Missed or invented: 200. {_ABSENT}",
        "symmetric relative difference; MSD and CHAOS divide by the reference",
    ),
    Metric(
        "lesion_sensitivity",
        "Lesion sensitivity",
        "",
        "higher",
        3,
        "The share of the reference's connected parts (26 neighbours) that have a part of the prediction matched to "
        "them, one to one, by overlap. Of findings only.",
        "No lesion in the reference: no value.",
        "maximum bipartite matching on Dice above 1e-6, as BraTS 2026",
    ),
    Metric(
        "lesion_precision",
        "Lesion precision",
        "",
        "higher",
        3,
        "The share of the prediction's connected parts that are matched to one of the reference. Of findings only.",
        "None predicted where the reference has some: 0. None in either: no value.",
        "as lesion sensitivity",
    ),
    Metric(
        "lesion_f1",
        "Lesion F1",
        "",
        "higher",
        3,
        "Twice the matched parts, over the parts of both. Of findings only.",
        "Missed or invented: 0. None in either: no value.",
        "as lesion sensitivity",
    ),
)
BY_KEY = {metric.key: metric for metric in METRICS}
