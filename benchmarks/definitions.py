"""How far the definitions of the references lie from ours on real cases: the table of docs/metrics.md.

Run     python -m benchmarks.definitions DIR        # about 6 CPU minutes with BraTS, KiTS and hippocampus cases
Reads   DIR, at any depth: BraTS*_seg.nii.gz, case_*/segmentation.nii.gz (KiTS), 20 of Task04_Hippocampus/labelsTr
Prints  a row a data set and figure: of every reference its mean over cases and structures, and in brackets the largest
        difference to ours

Predictions are the labels moved, frayed and with islands, as `benchmarks.evaluation` makes them. What is empty in the
label or in the prediction is left out: the references do not agree on what it counts.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluation import erring
from model.metrics import borders, overlap, surfaces
from pipelines.scans.volume import read

TOLERANCE_MM = 1.0
HIPPOCAMPI = 20
SETS = {  # glob, the labels of each structure, the cases at most
    "BraTS": ("BraTS*_seg.nii.gz", ((1, 2, 4), (1, 4), (4,)), None),
    "KiTS": ("case_*/segmentation.nii.gz", ((1, 2, 3), (2, 3), (2,)), None),
    "hippocampus": ("Task04_Hippocampus/labelsTr/*.nii.gz", ((1,), (2,)), HIPPOCAMPI),
}
Spacing = tuple[float, ...]
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    ways = {"ours": ours, "surface-distance": of_surface_distance, "MONAI": of_monai, "SimpleITK": of_sitk,
            "panoptica": of_panoptica}  # fmt: skip
    print(f"| data | figure | n | {' | '.join(ways)} |\n|---|---|---:|{'---:|' * len(ways)}")
    for name in SETS:
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for reference, predicted, spacing_mm in masks(data, name):
            for tool, way in ways.items():
                for figure, value in way(reference, predicted, spacing_mm).items():
                    found[figure][tool].append(value)
        for figure, of_tools in found.items():
            cells = [cell(of_tools.get(tool), of_tools["ours"]) for tool in ways]
            print(f"| {name} | {figure} | {len(of_tools['ours'])} | {' | '.join(cells)} |", flush=True)


def masks(data: Path, name: str) -> Iterator[tuple[np.ndarray, np.ndarray, Spacing]]:
    glob, structures, most = SETS[name]
    rng = np.random.default_rng(0)
    for path in sorted(data.rglob(glob))[:most]:
        scan = read(path)
        label = scan.array.astype(np.uint8)
        predicted = erring(label, rng)
        for values in structures:
            pair = np.isin(label, values), np.isin(predicted, values)
            if all(mask.any() for mask in pair):
                yield (*pair, scan.spacing_mm)


def cell(values: list[float] | None, ours: list[float]) -> str:
    if values is None:
        return ""
    largest = np.abs(np.subtract(values, ours)).max()
    plain = np.format_float_positional(largest, precision=1, fractional=False, trim="-")
    return f"{np.mean(values):.3f}" + ("" if values is ours else f" ({plain if largest > 1e-3 else f'{largest:.0e}'})")


def ours(reference: np.ndarray, predicted: np.ndarray, spacing_mm: Spacing) -> Figures:
    between = surfaces.between(reference, predicted, spacing_mm)
    return {
        "Dice": overlap.dice(reference, predicted),
        "surface Dice": between.dice(TOLERANCE_MM),
        "HD95": between.hausdorff_mm(),
        "Hausdorff": between.hausdorff_mm(100),
        "mean distance": between.mean_mm(),
    }


def of_surface_distance(reference: np.ndarray, predicted: np.ndarray, spacing_mm: Spacing) -> Figures:
    import surface_distance as peer

    distances = peer.compute_surface_distances(reference, predicted, spacing_mm)
    return {
        "Dice": peer.compute_dice_coefficient(reference, predicted),
        "surface Dice": peer.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM),
        "HD95": peer.compute_robust_hausdorff(distances, 95),
        "Hausdorff": peer.compute_robust_hausdorff(distances, 100),
        "mean distance": float(np.mean(peer.compute_average_surface_distance(distances))),
    }


def of_monai(reference: np.ndarray, predicted: np.ndarray, spacing_mm: Spacing) -> Figures:
    import torch
    from monai import metrics

    one, other = (torch.from_numpy(mask)[None, None] for mask in (reference, predicted))
    both: dict[str, Any] = {"y_pred": other, "y": one, "include_background": True}
    far: dict[str, Any] = {**both, "spacing": spacing_mm}
    figures = {
        "Dice": metrics.compute_dice(**both),
        "surface Dice": metrics.compute_surface_dice(**far, class_thresholds=[TOLERANCE_MM]),
        "HD95": metrics.compute_hausdorff_distance(**far, percentile=95),
        "Hausdorff": metrics.compute_hausdorff_distance(**far),
        "mean distance": metrics.compute_average_surface_distance(**far, symmetric=True),
    }
    return {figure: float(value) for figure, value in figures.items()}


def of_sitk(reference: np.ndarray, predicted: np.ndarray, spacing_mm: Spacing) -> Figures:
    import SimpleITK as sitk  # noqa: N813

    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (reference, predicted)]
    for image in images:
        image.SetSpacing(tuple(reversed(spacing_mm)))
    shared, far = sitk.LabelOverlapMeasuresImageFilter(), sitk.HausdorffDistanceImageFilter()
    shared.Execute(*images)
    far.Execute(*images)
    return {
        "Dice": shared.GetDiceCoefficient(),
        "Hausdorff": far.GetHausdorffDistance(),
        "mean distance": far.GetAverageHausdorffDistance(),
    }


def of_panoptica(reference: np.ndarray, predicted: np.ndarray, spacing_mm: Spacing) -> Figures:
    """By our own code, which `benchmarks.brats` shows to be equal; the tolerance given, not its default."""
    between = borders.between(reference, predicted, spacing_mm)
    return {
        "surface Dice": between.dice(TOLERANCE_MM),
        "HD95": between.hausdorff_mm(),
        "Hausdorff": between.hausdorff_mm(100),
    }


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # surface-distance's and MONAI's of what they use of others
        main()
