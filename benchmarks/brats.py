"""BraTS cases under brats-evaluate, the challenge's own program, and the same figures by this project's metrics.

Run     make brats DATA=DIR        # about 1 minute; makes .bench-brats, the program's environment, first (1 GB)
Reads   DIR, at any depth: label maps BraTS*_seg.nii.gz with labels 1, 2, 4 (BraTS 2020)
Prints  a row a figure: how many there are, the largest difference between brats-evaluate and ours by its definition,
        and what it and our own definition come to in the mean

brats-evaluate is under the AGPL and is started as a process of its own, never imported. It takes `--ref_path` and
`--pred_path`, folders of `*.nii.gz` with five digits, a hyphen and three in their names (BraTS-GLI-00001-000.nii.gz;
others are skipped) and integer labels 1 necrosis, 2 oedema, 3 enhancing, 4 resection cavity: the 4 of 2020 becomes 3.
Predictions here are the labels moved, frayed and with islands; one lacks a structure, and one invents one.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.evaluation import erring
from model.metrics import borders, lesions, overlap, surfaces

PROGRAM = Path(__file__).parents[1] / ".bench-brats" / "bin" / "brats-evaluate"
REGIONS = {"snfh": (2,), "et": (3,), "netc": (1,), "rc": (4,), "tc": (1, 3), "wt": (1, 2, 3)}  # its config `gli`
SPACING_MM = (1.0, 1.0, 1.0)
WITHOUT_SPACING_MM = 0.5  # its tolerance of the whole region's surface Dice, to which it passes no spacing
Figures = Mapping[str, float | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--program", type=Path, default=PROGRAM)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(sorted(arguments.data.rglob("BraTS*_seg.nii.gz")), folder)
        pairs = list(compared(folder, evaluated(folder, arguments.program)))
    print("| figure | n | largest difference | brats-evaluate, mean | our own definition, mean |")
    print("|---|---:|---:|---:|---:|")
    for figure in pairs[0][0]:
        values = [(its[figure], ours[figure], own[figure]) for its, ours, own in pairs]
        unlike = [case for case in values if known(case[0]) != known(case[1])]
        if unlike:
            raise RuntimeError(f"{figure}: one side has none: {unlike}")
        its, ours, own = (
            np.array(column, float) for column in zip(*filter(lambda v: known(v[0]), values), strict=True)
        )
        apart = [
            abs(one - other) for one, other in zip(its, ours, strict=True) if one != other
        ]  # infinite ones are equal
        print(f"| {figure} | {len(its)} | {max(apart, default=0):.1e} | {finite_mean(its)} | {finite_mean(own)} |")


def write(paths: Sequence[Path], folder: Path) -> None:
    """References and predictions as brats-evaluate reads them."""
    rng = np.random.default_rng(0)
    for number, path in enumerate(paths, start=1):
        image: Any = nib.load(path)
        reference = np.asarray(image.dataobj).astype(np.uint8)
        reference[reference == 4] = 3
        predicted = erring(reference, rng)
        predicted[predicted == 4] = 3
        if number % 4 == 3:
            predicted[predicted == 3] = 1
        if number % 4 == 0:
            reference[reference == 1] = 2
        for kind, label in (("references", reference), ("predictions", predicted)):
            (folder / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(label, image.affine), folder / kind / f"BraTS-GLI-{number:05d}-000.nii.gz")


def evaluated(folder: Path, program: Path) -> list[dict[str, Any]]:
    command = [program, "--config", "gli", "--ref_path", folder / "references", "--pred_path", folder / "predictions"]
    done = subprocess.run([*command, "--summary_json", folder / "summary.json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"brats-evaluate failed: {done.stderr[-2000:]}")
    summary = json.loads((folder / "summary.json").read_text())
    errors = [case["error"] for case in summary["metrics"] if "error" in case] + summary["missings"]
    if errors:  # it ends with 0 all the same
        raise RuntimeError(f"brats-evaluate left out: {errors}")
    return list(summary["metrics"])


def compared(folder: Path, cases: list[dict[str, Any]]) -> Iterator[tuple[Figures, Figures, Figures]]:
    """Of every case and region: its figures, ours by its definition, ours by our own."""
    for case in cases:
        reference, predicted = (
            np.asarray(nib.load(folder / kind / case["subject_name"]).dataobj)  # type: ignore[attr-defined]
            for kind in ("references", "predictions")
        )
        for region, values in REGIONS.items():
            masks = np.isin(reference, values), np.isin(predicted, values)
            yield (told(case[region]), *measured(*masks))


def told(region: Mapping[str, float]) -> Figures:
    keys = {"Dice": "global_bin_dsc", "HD95": "global_bin_hd95", "surface Dice": "global_bin_nsd", "hits": "tp",
            "inventions": "fp", "misses": "fn", "sensitivity": "rec", "precision": "prec", "F1": "rq",
            "Dice of hit lesions": "sq_dsc"}  # fmt: skip
    return {name: region.get(key) for name, key in keys.items()}


def measured(reference: np.ndarray, predicted: np.ndarray) -> tuple[Figures, Figures]:
    its, own = (module.between(reference, predicted, SPACING_MM) for module in (borders, surfaces))
    found = lesions.detect(reference, predicted, SPACING_MM)
    shared = {
        "Dice": overlap.dice(reference, predicted),
        "hits": len(found.pairs),
        "inventions": len(found.spurious_mm3),
        "misses": len(found.missed_mm3),
        "sensitivity": found.sensitivity,
        "precision": found.precision,
        "F1": found.f1,
        "Dice of hit lesions": mean_of_hits(found),
    }
    return (
        {**shared, "HD95": its.hausdorff_mm(), "surface Dice": its.dice(WITHOUT_SPACING_MM)},
        {**shared, "HD95": own.hausdorff_mm(), "surface Dice": own.dice(1.0)},
    )


def mean_of_hits(found: lesions.Detection) -> float:
    """Without a hit 0, as brats-evaluate has it, unless there is nothing at all."""
    if found.pairs:
        return float(np.mean([pair.dice for pair in found.pairs]))
    return 0.0 if found.missed_mm3 or found.spurious_mm3 else float("nan")


def known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def finite_mean(values: np.ndarray) -> str:
    infinite = int(np.isinf(values).sum())
    return f"{values[np.isfinite(values)].mean():.3f}" + (f", {infinite} infinite" if infinite else "")


if __name__ == "__main__":
    main()
