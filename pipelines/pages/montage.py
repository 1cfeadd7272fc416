"""The best, median and worst held-out case as a picture: people would rather look than read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.data.casefile import Case
from pipelines.scans.structures import STRUCTURES


@dataclass(frozen=True)
class Picture:
    """The slice of one case with most foreground: `image` (H, W), `reference` and `predicted` structure ids."""

    title: str
    image: np.ndarray
    reference: np.ndarray
    predicted: np.ndarray
    aspect: float
    dice: float


def picture(case: Case, predicted: np.ndarray, dice: float) -> Picture:
    """`predicted` (D, H, W): structure ids on the case file's grid."""
    label = np.asarray(case.label)
    at = int((label > 0).sum(axis=(1, 2)).argmax())
    spacing_mm = case.record.spacing_mm
    image = np.asarray(case.image[0, at], dtype=np.float32)
    return Picture(case.record.source, image, label[at], predicted[at], spacing_mm[1] / spacing_mm[2], dice)


def draw(path: Path, pictures: list[Picture]) -> None:
    """Three rows (best, median, worst), three columns (scan, reference, prediction), front of the patient up."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    ranked = sorted((p for p in pictures if p.dice == p.dice), key=lambda p: -p.dice) or pictures
    chosen = [("best", ranked[0]), ("median", ranked[len(ranked) // 2]), ("worst", ranked[-1])]
    figure, axes = plt.subplots(3, 3, figsize=(9, 9.4), layout="constrained")
    for row, (name, shown) in zip(axes, chosen, strict=True):
        low, high = np.percentile(shown.image, (1, 99))
        grey = np.repeat(((shown.image - low) / max(float(high - low), 1e-6)).clip(0, 1)[..., None], 3, axis=2)
        for axis, (title, label) in zip(
            row, (("scan", None), ("reference", shown.reference), ("prediction", shown.predicted)), strict=True
        ):
            axis.imshow(grey if label is None else _overlay(grey, label), origin="lower", aspect=shown.aspect)
            axis.set_axis_off()
            axis.set_title(
                title if label is None or title == "reference" else f"{title}, Dice {shown.dice:.3f}", fontsize=10
            )
        row[0].set_title(f"{name}: {shown.title}", fontsize=10)
    figure.legend(handles=_legend(chosen), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def _overlay(grey: np.ndarray, label: np.ndarray) -> np.ndarray:
    result = grey.copy()
    for structure in STRUCTURES:
        result[label == structure.id] = 0.45 * result[label == structure.id] + 0.55 * np.array(_rgb(structure.colour))
    return result


def _legend(chosen: list[tuple[str, Picture]]) -> list[object]:
    from matplotlib.patches import Patch

    present = {int(value) for _, p in chosen for value in np.unique(np.stack([p.reference, p.predicted]))}
    return [Patch(color=_rgb(s.colour), label=s.name.replace("_", " ")) for s in STRUCTURES if s.id in present]


def _rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
