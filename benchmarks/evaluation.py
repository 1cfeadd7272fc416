"""The metrics against their peers: MONAI and surface-distance on the same arrays, and what a BraTS cohort costs.

Run     python -m benchmarks.evaluation [--data DIR] [--only volume cohort]      # about 5 CPU minutes
Reads   DIR, at any depth: BraTS label maps (*_seg.nii.gz); without them, tumours are made up
Prints  a row per comparison: our cost, the peer's, their ratio and the ratio aimed at

CPU time of one thread. `volume` is a label map of 256x256x160 with four structures, noise at their borders and an
island far away in the prediction, spacing 1 x 1 x 1.5 mm: Dice, HD95 and surface Dice at 2 mm of every structure.
Ours begins with the label map; MONAI gets its masks as tensors, surface-distance as arrays, outside of the time taken.
The cohort is 40 cases of 240x240x155 with three regions and all metrics: both definitions of distances, counts, Dice,
lesions; reading files is not in it.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, shift

from model.metrics import borders, lesions, overlap, surfaces
from pipelines.scans.volume import read

SPACING_MM = (1.5, 1.0, 1.0)
SHAPE = (160, 256, 256)
TOLERANCE_MM = 2.0
REGIONS = {"whole tumour": (1, 2, 4), "tumour core": (1, 4), "enhancing tumour": (4,)}
CASES, COHORT, CORES = 40, 1251, 2
ORGANS = (  # centre and radii in voxels
    ((80, 128, 80), (60, 70, 55)),
    ((80, 150, 190), (45, 50, 40)),
    ((60, 60, 180), (25, 22, 28)),
    ((120, 60, 200), (10, 14, 9)),
)
Figures = list[float]  # of each structure in turn: Dice, HD95, surface Dice


@dataclass(frozen=True)
class Row:
    what: str
    ours: float
    peer: str
    its: float
    aim: str
    unit: str = "s"


def main() -> None:
    arguments = parse_arguments()
    import torch

    torch.set_num_threads(1)
    parts: Mapping[str, Callable[[Path | None], Iterator[Row]]] = {"volume": volume, "cohort": cohort}
    print("| | ours | peer | its | ours / its | aim |\n|---|---:|---|---:|---:|---:|")
    for name in arguments.only or parts:
        for row in parts[name](arguments.data):
            cells = f"| {row.what} | {row.ours:.4g} {row.unit} | {row.peer} | {row.its:.4g} {row.unit} |"
            print(f"{cells} {row.ours / row.its:.3f} | {row.aim} |", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real scans; without it, made-up ones")
    parser.add_argument("--only", nargs="+", choices=("volume", "cohort"))
    return parser.parse_args()


def volume(_: Path | None) -> Iterator[Row]:
    reference, predicted = organs()
    coarse = (slice(None, None, 8),) * 3
    ways = {"ours": ours, "surface-distance 0.1": of_surface_distance, "MONAI 1.6.1": of_monai}
    seconds, figures = {}, {}
    for name, way in ways.items():
        way(reference[coarse], predicted[coarse])()  # imports and tables
        prepared = way(reference, predicted)
        seconds[name], figures[name] = min((timed(prepared) for _ in range(3)), key=lambda run: run[0])
    for peer, aim in (("surface-distance 0.1", "0.5"), ("MONAI 1.6.1", "0.167")):
        yield Row("Dice, HD95, surface Dice: 256x256x160, 4 structures", seconds["ours"], peer, seconds[peer], aim)
        apart = np.abs(np.subtract(figures["ours"], figures[peer])).max()
        print(f"largest difference to {peer}: {apart:.2e}", file=sys.stderr)


def ours(reference: np.ndarray, predicted: np.ndarray) -> Callable[[], Figures]:
    def measure() -> Figures:
        figures = []
        for value in range(1, 5):
            one, other = reference == value, predicted == value
            between = surfaces.between(one, other, SPACING_MM)
            figures += [overlap.dice(one, other), between.hausdorff_mm(), between.dice(TOLERANCE_MM)]
        return figures

    return measure


def of_surface_distance(reference: np.ndarray, predicted: np.ndarray) -> Callable[[], Figures]:
    import surface_distance as peer

    masks = [(reference == value, predicted == value) for value in range(1, 5)]

    def measure() -> Figures:
        figures = []
        for one, other in masks:
            distances = peer.compute_surface_distances(one, other, SPACING_MM)
            figures += [
                peer.compute_dice_coefficient(one, other),
                peer.compute_robust_hausdorff(distances, 95),
                peer.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM),
            ]
        return figures

    return measure


def of_monai(reference: np.ndarray, predicted: np.ndarray) -> Callable[[], Figures]:
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    one, other = (
        torch.from_numpy(np.stack([label == value for value in range(1, 5)])[None]) for label in (reference, predicted)
    )

    def measure() -> Figures:
        both = {"y_pred": other, "y": one, "include_background": True}
        overlaps = compute_dice(**both)
        hausdorff = compute_hausdorff_distance(**both, percentile=95, spacing=SPACING_MM)
        close = compute_surface_dice(**both, class_thresholds=[TOLERANCE_MM] * 4, spacing=SPACING_MM)
        return [float(value) for value in torch.stack([overlaps, hausdorff, close], -1).flatten()]

    return measure


def timed(function: Callable[[], Figures]) -> tuple[float, Figures]:
    start = time.process_time()
    figures = function()
    return time.process_time() - start, figures


def organs() -> tuple[np.ndarray, np.ndarray]:
    """A label map of four structures, from large to small, and one that errs at their borders and in an island."""
    rng = np.random.default_rng(0)
    grid = np.indices(SHAPE, dtype=np.float32)
    reference, predicted = (np.zeros(SHAPE, np.uint8) for _ in range(2))
    for value, (centre, radii) in enumerate(ORGANS, start=1):
        away = sum(((axis - middle) / radius) ** 2 for axis, middle, radius in zip(grid, centre, radii, strict=True))
        bumps, errors = (gaussian_filter(rng.standard_normal(SHAPE, np.float32), 6) for _ in range(2))
        surface = np.sqrt(away) + 4 * bumps
        reference[surface < 1] = value
        predicted[surface + 2 * errors < 1] = value
    predicted[4:10, 4:12, 4:12] = 1
    return reference, predicted


def cohort(data: Path | None) -> Iterator[Row]:
    """All metrics of 40 cases; 1,251 of them on two cores follow by proportion, since cases are independent."""
    references, rng = tumours(data), np.random.default_rng(1)
    seconds = 0.0
    for number in range(CASES + 1):
        reference = references[number % len(references)]
        predicted = erring(reference, rng)
        start = time.process_time()
        for values in REGIONS.values():
            everything(np.isin(reference, values), np.isin(predicted, values))
        seconds += time.process_time() - start if number else 0  # the first one imports and fills tables
    minutes = seconds / CASES * COHORT / CORES / 60
    yield Row(f"{COHORT} cases of 240x240x155 x 3 regions on {CORES} cores", minutes, "aim", 10.0, "1", "min")


def everything(reference: np.ndarray, predicted: np.ndarray) -> None:
    spacing_mm = (1.0, 1.0, 1.0)
    overlap.counts(reference, predicted)
    overlap.dice(reference, predicted)
    ours, theirs = (module.between(reference, predicted, spacing_mm) for module in (surfaces, borders))
    ours.mean_mm()
    for between in (ours, theirs):
        between.dice(1.0), between.hausdorff_mm()
    lesions.detect(reference, predicted, spacing_mm)


def tumours(data: Path | None) -> list[np.ndarray]:
    """Label maps of BraTS, real ones if there are any."""
    paths = sorted(data.rglob("BraTS*_seg.nii.gz")) if data else []
    if paths:
        return [read(path).array.astype(np.uint8) for path in paths]
    rng, made = np.random.default_rng(2), []
    for _ in range(4):
        field = gaussian_filter(rng.standard_normal((155, 240, 240), np.float32), 9)
        made.append(np.digitize(field / field.max(), (0.6, 0.7, 0.8)).astype(np.uint8)[..., :])
    return [np.array([0, 2, 1, 4], np.uint8)[field] for field in made]


def erring(reference: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moved by up to two voxels, frayed at the borders, with islands."""
    predicted = shift(reference, rng.integers(-2, 3, 3), order=0)
    noise = gaussian_filter(rng.standard_normal(reference.shape, np.float32), 1.5)
    predicted[(noise > 0.15) & (gaussian_filter((predicted > 0).astype(np.float32), 1.5) < 0.9)] = 0
    for corner in rng.integers(0, np.array(reference.shape) - 3, (8, 3)):
        predicted[tuple(slice(low, low + 4) for low in corner)] = rng.choice(np.unique(reference)[1:])
    return predicted


if __name__ == "__main__":
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # surface-distance's and MONAI's of what they use
            warnings.filterwarnings("ignore", category=category)
        main()
