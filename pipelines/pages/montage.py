"""The best, median and worst held-out case as a picture: people would rather look than read."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.data.casefile import Case
from pipelines.pages.drawing import overlaid, present, shares, unit_rgb, window_of


@dataclass(frozen=True)
class Comparison:
    """The slice of one case with most foreground: `image` (H, W), `reference` and `predicted` structure ids."""

    title: str
    image: np.ndarray
    reference: np.ndarray
    predicted: np.ndarray
    aspect: float
    dice: float


def compare(case: Case, predicted: np.ndarray, dice: float) -> Comparison:
    """`predicted` (D, H, W): structure ids on the case file's grid."""
    label = np.asarray(case.label)
    at = int((label > 0).sum(axis=(1, 2)).argmax())
    spacing_mm = case.record.spacing_mm
    image = np.asarray(case.image[0, at], dtype=np.float32)
    return Comparison(case.record.source, image, label[at], predicted[at], spacing_mm[1] / spacing_mm[2], dice)


def draw(path: Path, comparisons: list[Comparison]) -> None:
    """Three rows (best, median, worst), three columns (scan, reference, prediction), front of the patient up."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    ranked = sorted((each for each in comparisons if each.dice == each.dice), key=lambda each: -each.dice)
    ranked = ranked or comparisons
    chosen = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
    figure, axes = plt.subplots(3, 3, figsize=(9, 9.4), layout="constrained")
    for row, (name, shown) in zip(axes, chosen.items(), strict=True):
        grey = shares(shown.image, window_of(shown.image))
        titles = (f"{name}: {shown.title}", "reference", f"prediction, Dice {shown.dice:.3f}")
        for axis, title, label in zip(row, titles, (None, shown.reference, shown.predicted), strict=True):
            axis.imshow(overlaid(grey, label), origin="lower", aspect=shown.aspect)
            axis.set_axis_off()
            axis.set_title(title, fontsize=10)
    figure.legend(handles=_legend(chosen.values()), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def _legend(chosen: Iterable[Comparison]) -> list[object]:
    from matplotlib.patches import Patch

    labels = np.concatenate([label.ravel() for each in chosen for label in (each.reference, each.predicted)])
    return [Patch(color=unit_rgb(s.colour), label=s.name.replace("_", " ")) for s in present(labels)]
