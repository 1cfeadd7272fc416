"""An evaluation that looks like one: balls in noise, found more or less well, some missed, some invented."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.pages.evaluation.content import ComparisonTold, Content, MetricTold, StructureTold, Viewed

METRICS = (
    MetricTold("dice", "Dice", "", "higher", "Twice what is common over both sums.", "One side empty: 0.", "Dice 1945"),
    MetricTold(
        "surface_dice", "Surface Dice", "", "higher", "Share of both surfaces within the tolerance of each other.",
        "One side empty: 0.", "Nikolov et al. 2018",
    ),
    MetricTold(
        "hd95_mm", "HD95", "mm", "lower", "The larger of both 95th percentiles of distances to the other surface.",
        "One side empty: the scan's diagonal.", "Huttenlocher et al. 1993",
    ),
    MetricTold("volume_error_percent", "Volume error", "%", "lower", "Predicted less reference over reference."),
)  # fmt: skip
STRUCTURES = (
    StructureTold("left_ventricle", "left ventricle", (214, 68, 68), 2.0, "Maier-Hein 2024", (), (7,)),
    StructureTold("myocardium", "myocardium", (84, 168, 104), 2.0, "Maier-Hein 2024", ("thin: 2 voxels wide",), (11,)),
    StructureTold("lesion", "lesion", (240, 180, 40), 1.0, "this project", ("small: Dice misleads",), (300,)),
)  # fmt: skip
SOURCES, SPACING_MM = ("acdc", "clinic_b"), (3.0, 1.5, 1.5)


@dataclass(frozen=True, eq=False)
class Case:
    case_id: str
    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    other: np.ndarray
    border: bool


def case(number: int, shape: tuple[int, int, int] = (32, 64, 64)) -> Case:
    rng = np.random.default_rng(number)
    reference, prediction, other = (np.zeros(shape, np.int16) for _ in range(3))
    noise = rng.normal(0, 1, shape)
    for axis in range(3):
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    image = 70 + 4 * noise
    border = number % 13 == 5
    middle = np.array([shape[0] - 5 if border else shape[0] / 2, shape[1] / 2, shape[2] / 2.4]) + rng.normal(0, 2, 3)
    radius, error = rng.uniform(13, 20), abs(rng.normal(0, 1.0)) + 0.25
    for target, wrong in ((reference, 0.0), (prediction, error), (other, error * 1.5)):
        ball(target, middle + wrong * np.array([0.3, 1.2, -0.8]), radius + 4.5 + wrong, 11)
        ball(target, middle + wrong * np.array([0.2, 0.9, 0.7]), radius - 0.6 * wrong, 7)
    if number % 3:
        at = np.array([shape[0] / 2, shape[1] / 3, shape[2] * 0.82]) + rng.normal(0, 1.5, 3)
        size = rng.uniform(3.5, 9)
        for target, wrong in ((reference, 0.0), (prediction, error), (other, 2 * error)):
            if number % 11 != 4 or target is reference:
                ball(target, at + wrong, size - wrong, 300)
    elif number % 4 == 0:
        ball(prediction, np.array([shape[0] / 2, 14, 50]), 4, 300)
    for value, grey in ((11, 50), (7, 110), (300, 80)):
        image[reference == value] += grey
    return Case(f"case-{number:03d}", image.clip(0, 255).astype(np.uint8), reference, prediction, other, border)


def ball(target: np.ndarray, middle: np.ndarray, radius_mm: float, value: int) -> None:
    grid = np.meshgrid(*(np.arange(size) for size in target.shape), indexing="ij")
    squares = sum(((at - m) * mm) ** 2 for at, m, mm in zip(grid, middle, SPACING_MM, strict=True))
    target[squares <= radius_mm**2] = value


def row(one: Case, structure: StructureTold, predicted: np.ndarray) -> dict[str, Any]:
    a, b = one.reference == structure.values[0], predicted == structure.values[0]
    ml = float(np.prod(SPACING_MM)) / 1000
    reference_ml, predicted_ml = a.sum() * ml, b.sum() * ml
    status = ("scored" if b.any() else "missed") if a.any() else ("invented" if b.any() else "absent")
    dice = 2 * (a & b).sum() / (a.sum() + b.sum()) if status != "absent" else np.nan
    rng = np.random.default_rng(int(a.sum()))
    found = {
        "dice": dice, "surface_dice": min(1.0, dice * rng.uniform(0.96, 1.06)),
        "hd95_mm": 117.0 if status in ("missed", "invented") else (1 - dice) * 24 + rng.uniform(0.5, 2),
        "volume_error_percent": 100 * (predicted_ml - reference_ml) / reference_ml if a.any() else np.nan,
        "confidence": float(np.clip(dice * 0.6 + 0.37 + rng.normal(0, 0.03), 0, 1)), "flip_dice": dice * 0.3 + 0.68,
    }  # fmt: skip
    number = int(one.case_id[-3:])
    return {
        "case_id": one.case_id, "patient": f"patient-{number // 2}", "source": SOURCES[number % 2],
        "modality": "cine", "site": "", "scanner": "", "slice_mm": 3.0, "structure": structure.name, "status": status,
        "cut": one.border and structure.name != "lesion", "size": ("small", "medium", "large")[number // 3 % 3],
        "reference_ml": reference_ml, "predicted_ml": predicted_ml,
        **{key: float(value) if status != "absent" and np.isfinite(value) else None for key, value in found.items()},
    }  # fmt: skip


def summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        summary(group, value, structure.name, metric.key, [row for row in rows if row["structure"] == structure.name
                                                           and (group == "all" or row[group] == value)])
        for group, values in (("all", [""]), ("source", SOURCES), ("size", ("small", "medium", "large")))
        for value in values
        for structure in STRUCTURES
        for metric in METRICS
    ]  # fmt: skip


def summary(group: str, value: str, structure: str, metric: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    values = np.array([row[metric] for row in rows if row[metric] is not None])
    if not len(values):
        return {
            "group": group,
            "value": value,
            "structure": structure,
            "metric": metric,
            "n": 0,
            "cases_absent": len(rows),
            **dict.fromkeys(("mean", "low", "high", "q25", "median", "q75")),
            "note": "too few",
        }
    mean, half = values.mean(), 1.96 * values.std() / np.sqrt(len(values))
    few = len(values) < 15
    q25, median, q75 = np.percentile(values, (25, 50, 75))
    return {
        "group": group, "value": value, "structure": structure, "metric": metric, "n": len(values),
        "cases_absent": sum(row["status"] == "absent" for row in rows), "mean": mean,
        "low": None if few else mean - half, "high": None if few else mean + half, "note": "too few" if few else "",
        "q25": q25, "median": median, "q75": q75,
    }  # fmt: skip


def confidence(structure: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    own = [row for row in rows if row["structure"] == structure and row["status"] != "absent"]
    risk = 1 - np.array([row["dice"] for row in sorted(own, key=lambda row: -row["confidence"])])
    curve = np.cumsum(risk) / np.arange(1, len(risk) + 1)
    return {
        "structure": structure, "spearman": 0.81,
        "risk_coverage": {"coverage": np.arange(1, len(risk) + 1) / len(risk), "risk": curve, "aurc": curve.mean(),
                          "aurc_random": risk.mean()},
        "volume": {"told": "90 % of volumes within -14 % and +11 %", "level": 0.9, "measured_coverage": 0.905,
                   "n": len(own), "note": ""},
    }  # fmt: skip


def viewed(one: Case, compared: bool = False) -> Viewed:
    layers = {"reference": one.reference, "prediction": one.prediction, **({"other": one.other} if compared else {})}
    return Viewed(one.case_id, "cine, end-diastole", one.image, SPACING_MM, layers)


def content(cases: int = 40, seen: int = 12, compared: bool = False, **changes: Any) -> Content:
    all_cases = [case(number) for number in range(cases)]
    rows = [row(one, structure, one.prediction) for one in all_cases for structure in STRUCTURES]
    others = [row(one, structure, one.other) for one in all_cases for structure in STRUCTURES]
    worst = sorted(all_cases, key=lambda one: min(r["dice"] or 0 for r in rows if r["case_id"] == one.case_id))
    told = {
        "title": "Cardiac segmentation, version 7: evaluation on held-out scans",
        "facts": {
            "model": "medseg-cardiac, version 7", "network": "base", "cases": f"{cases} of 20 patients",
            "sources": "acdc, clinic_b", "evaluated": "on the scans' own grid", "weights": "sha256 9f31c2aa",
        },
        "summary": [
            f"{cases} held-out scans of 20 patients were segmented and compared with their reference.",
            "The left ventricle is found in every scan, with a mean Dice of 0.94; the thin myocardium reaches 0.78.",
            "Of 26 lesions 2 are missed, and 4 scans have one that is not there: look at these first.",
        ],
        "notes": ["Three scans touch the border of the left ventricle; their volumes are incomplete."],
        "metrics": METRICS, "structures": STRUCTURES, "rows": rows, "summaries": summaries(rows),
        "left_out": [("case-901", "its label lies on another grid: 216x256x10"), ("case-902", "no label")],
        "confidence": [confidence(structure.name, rows) for structure in STRUCTURES],
        "calibration": calibration(),
        "viewed": [viewed(one, compared) for one in worst[:seen]],
        "comparison": comparison(rows, others) if compared else None,
        **changes,
    }  # fmt: skip
    return Content(**told)


def calibration() -> dict[str, Any]:
    said = np.linspace(0.525, 0.975, 10)
    bins = [
        {"predicted": p, "observed": p - 0.09 * (1 - p) - 0.02, "count": int(3000 * 40 ** ((p - 0.5) * 2))}
        for p in said
    ]
    return {"bins": bins, "error": 0.031}


def comparison(rows: list[dict[str, Any]], other: list[dict[str, Any]]) -> ComparisonTold:
    differences = [
        {"structure": structure.name, "metric": metric.key, "mean": 0.012 * scale, "low": 0.004 * scale,
         "high": 0.021 * scale, "n": 40, "note": ""}
        for structure, factor in zip(STRUCTURES, (1, 1.6, -0.4), strict=True)
        for metric in METRICS
        for scale in (factor * (1 if metric.unit == "" else -80),)
    ]  # fmt: skip
    return ComparisonTold(("version 7", "version 6"), differences, other)
