"""How often each kind of printed interval holds the truth, by number of patients.

Run     python -m benchmarks.intervals reports/evaluate/cases.parquet    # measured cases, one file or several
        python -m benchmarks.intervals                                   # invented distributions, named in the output
        python -m benchmarks.intervals A.parquet B.parquet --metrics dice --repetitions 4000
Prints  a Markdown table: coverage in percent / mean width, in brackets where "too few" is printed instead; and from how
        many patients on each kind keeps to 93-97 %
Expect  4 minutes on 2 cores for the invented distributions, 25 s for each structure and metric of a file

A file's patients, with all of their cases, are the population: its mean is known, samples are drawn from it with
replacement, and the interval of each sample is asked whether it holds that mean. A volume's interval is asked which
share of the population it covers; 90 % is promised. Two files with cases in common also give paired differences.
Columns as in cases.parquet; CSV as well. Without a column `patient` each case is taken as a patient of its own.
"""

import argparse
import csv
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pipelines.evaluation import confidence, statistics

PATIENTS = (5, 8, 10, 15, 20, 30, 41, 50, 100, 200)
METRICS = (
    "dice", "surface_dice", "hd95_mm", "mean_surface_mm", "volume_error_ml", "volume_error_percent",
    "lesion_sensitivity", "lesion_precision", "lesion_f1",
)  # fmt: skip
FEWEST = {
    "mean": statistics.FEWEST_FOR_MEAN,
    "difference": statistics.FEWEST_FOR_MEAN,
    "rate": statistics.FEWEST_FOR_RATE,
    "volume": 19,
}
PROMISED = {"volume": 90.0}  # percent; 95 for the others, and 2 points more or less; a volume's 3
INVENTED_PATIENTS = 20_000
Columns = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Population:
    """Cases of known patients. `kind` says what the columns are and which interval is printed of them."""

    name: str
    kind: str
    columns: Columns
    patient: np.ndarray  # (cases,): 0, 1, ... in order


@dataclass(frozen=True)
class Found:
    """Of one population and number of patients: percent of repetitions (or of cases), None if nothing is printed."""

    coverage: float | None
    width: float | None
    error: float  # standard error of the coverage, points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", type=Path)
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=METRICS)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--patients", type=int, nargs="+", default=PATIENTS)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    populations = list(measured(chosen.cases, chosen.metrics)) if chosen.cases else list(invented())
    if not populations:
        sys.exit("no structure has 5 patients with a value")
    tasks = [(population, n, chosen.repetitions) for population in populations for n in chosen.patients]
    with ProcessPoolExecutor(chosen.workers) as workers:
        found = list(workers.map(simulate, *zip(*tasks, strict=True)))
    rows = [found[first : first + len(chosen.patients)] for first in range(0, len(found), len(chosen.patients))]
    print("\n".join(table(populations, chosen.patients, rows)))


def simulate(population: Population, n: int, repetitions: int) -> Found:
    """Coverage and mean width over samples of `n` patients, also where it would not be printed."""
    rng = np.random.default_rng((n, zlib.crc32(population.name.encode())))
    groups = np.split(np.arange(len(population.patient)), np.flatnonzero(np.diff(population.patient)) + 1)
    answer, truth = ANSWERS[population.kind], TRUTHS[population.kind](population.columns)
    low_enough = {"FEWEST_FOR_MEAN": 2, "FEWEST_FOR_RATE": 2}
    held, widths = [], []
    with mock.patch.multiple(statistics, **low_enough):
        for _ in range(repetitions):
            drawn = [groups[index] for index in rng.integers(0, len(groups), n)]
            names = np.repeat(np.arange(n), [len(group) for group in drawn])
            cases = np.concatenate(drawn)
            bounds = answer(tuple(column[cases] for column in population.columns), names)
            if bounds is not None:
                held.append(np.mean((bounds[0] <= truth) & (truth <= bounds[1])))
                widths.append(bounds[1] - bounds[0])
    if len(held) < repetitions / 2:
        return Found(None, None, 0.0)
    return Found(100 * float(np.mean(held)), float(np.mean(widths)), 100 * float(np.std(held)) / len(held) ** 0.5)


def _of(interval: statistics.Interval) -> tuple[float, float] | None:
    return None if interval.low is None or interval.high is None else (interval.low, interval.high)


def _of_volume(columns: Columns, names: np.ndarray) -> tuple[float, float] | None:
    told = confidence.conformal_volume(*columns, names)
    return told.of(1.0)


def _ratios(columns: Columns) -> np.ndarray:
    """Reference over predicted; a missed or invented structure is held by no interval."""
    predicted, reference = (column[(columns[0] > 0) | (columns[1] > 0)] for column in columns)
    return np.divide(reference, predicted, out=np.full(len(predicted), np.inf), where=predicted > 0)


ANSWERS: dict[str, Callable[[Columns, np.ndarray], tuple[float, float] | None]] = {
    "mean": lambda columns, names: _of(statistics.mean(columns[0], names)),
    "difference": lambda columns, names: _of(statistics.mean(columns[0] - columns[1], names)),  # as `paired`, without p
    "rate": lambda columns, names: _of(statistics.rate(*columns, names)),
    "volume": _of_volume,
}
TRUTHS: dict[str, Callable[[Columns], Any]] = {
    "mean": lambda columns: columns[0].mean(),
    "difference": lambda columns: (columns[0] - columns[1]).mean(),
    "rate": lambda columns: columns[0].sum() / columns[1].sum(),
    "volume": _ratios,
}


def table(populations: Sequence[Population], patients: Sequence[int], rows: Sequence[Sequence[Found]]) -> Iterator[str]:
    yield "| interval | " + " | ".join(map(str, patients)) + " | holds from |"
    yield "|---|" + "--:|" * (len(patients) + 1)
    reached: dict[str, list[int | None]] = {}
    for population, found in zip(populations, rows, strict=True):
        told = [cell(each, n < FEWEST[population.kind]) for each, n in zip(found, patients, strict=True)]
        start = holds_from(population.kind, patients, found)
        reached.setdefault(population.kind, []).append(start)
        yield f"| {population.kind}: {population.name} | {' | '.join(told)} | {start or 'never'} |"
    yield ""
    for kind, starts in reached.items():
        known = [start for start in starts if start]
        told = (
            f"{len(known)} of {len(starts)} hold, from {max(known)} patients at the latest" if known else "none holds"
        )
        yield f"{kind}: {told}; printed from {FEWEST[kind]}"


def cell(found: Found, too_few: bool) -> str:
    if found.coverage is None:
        return "-"
    told = f"{found.coverage:.1f} / {found.width:.3g}"
    return f"({told})" if too_few else told


def holds_from(kind: str, patients: Sequence[int], found: Sequence[Found]) -> int | None:
    """The number from which no coverage lies below the bounds, nor above by more than two errors of the simulation."""
    promised, start = PROMISED.get(kind, 95.0), None
    for n, each in sorted(zip(patients, found, strict=True), key=lambda pair: -pair[0]):
        points = 3.0 if kind == "volume" else 2.0
        if each.coverage is None or not -points <= each.coverage - promised <= points + 2 * each.error:
            break
        start = n
    return start


def measured(files: Sequence[Path], metrics: Sequence[str]) -> Iterator[Population]:
    """What can be asked of files of measured cases: every structure that 5 patients have."""
    tables = {path: read_cases(path) for path in files}
    for path, rows in tables.items():
        for structure in dict.fromkeys(row["structure"] for row in rows):
            own = sorted((row for row in rows if row["structure"] == structure), key=lambda row: row["patient"])
            yield from _of_structure(f"{path.parent.name}/{path.stem} {structure}", own, metrics)
    for (path, ours), (other, theirs) in pairwise(tables.items()):
        known = {(row["case_id"], row["structure"]): row for row in theirs}
        both = [(row, known[key]) for row in ours if (key := (row["case_id"], row["structure"])) in known]
        for structure in dict.fromkeys(row["structure"] for row, _ in both):
            pairs = sorted((pair for pair in both if pair[0]["structure"] == structure), key=lambda p: p[0]["patient"])
            for metric in metrics:
                columns = tuple(np.array([_number(row, metric) for row in side]) for side in zip(*pairs, strict=True))
                name = f"{metric} of {structure}, {path.parent.name} - {other.parent.name}"
                yield from _population(name, "difference", columns, [row["patient"] for row, _ in pairs])


def _of_structure(name: str, rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> Iterator[Population]:
    patients = [row["patient"] for row in rows]
    for metric in metrics:
        yield from _population(f"{metric}, {name}", "mean", (_column(rows, metric),), patients)
    present = np.array([row.get("status") in ("scored", "missed") for row in rows], float)
    found = np.array([row.get("status") == "scored" for row in rows], float)
    if found.sum() < present.sum():
        yield from _population(f"found, {name}", "rate", (found, present), patients)
    volumes = _column(rows, "predicted_ml"), _column(rows, "reference_ml")
    yield from _population(f"interval, {name}", "volume", volumes, patients)


def _population(name: str, kind: str, columns: Columns, patients: Sequence[str]) -> Iterator[Population]:
    known = ~np.isnan(np.stack(columns)).any(axis=0)
    names, index = np.unique(np.asarray(patients)[known], return_inverse=True)
    if len(names) >= 5 and any(np.ptp(column[known]) > 0 for column in columns):
        yield Population(name, kind, tuple(column[known] for column in columns), index)


def read_cases(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(path).to_pylist()
    return [{**row, "patient": str(row.get("patient") or row["case_id"])} for row in rows]


def _column(rows: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([_number(row, name) for row in rows])


def _number(row: dict[str, Any], name: str) -> float:
    value = row.get(name)
    return float("nan") if value in (None, "") else float(value)  # type: ignore[arg-type]


def invented() -> Iterator[Population]:
    """Shapes that metrics have, without a network: no result, but what each kind must be able to bear."""
    rng, n = np.random.default_rng(0), INVENTED_PATIENTS
    one, two = np.arange(n), np.repeat(np.arange(n), 2)

    def dice(median: float, spread: float, size: int = n, patient: Any = 0.0) -> np.ndarray:
        return 1 - np.clip(np.exp(np.log(1 - median) + spread * rng.standard_normal(size) + patient), 0, 1)

    def with_misses(values: np.ndarray, share: float, worst: float) -> np.ndarray:
        return np.where(rng.random(len(values)) < share, worst, values)

    yield Population("Dice, median 0.90", "mean", (dice(0.9, 0.3),), one)
    shared = np.repeat(0.4 * rng.standard_normal(n), 2)
    yield Population("Dice, median 0.88, 2 scans a patient", "mean", (dice(0.88, 0.4, 2 * n, shared),), two)
    yield Population("Dice, 1 in 100 missed", "mean", (with_misses(dice(0.88, 0.6), 0.01, 0.0),), one)
    lesions = with_misses(rng.beta(2.5, 1.2, n), 0.15, 0.0)
    yield Population("Dice of lesions, 15 in 100 missed", "mean", (lesions,), one)
    distance = 1.6 * np.exp(0.6 * rng.standard_normal(n))
    yield Population("HD95", "mean", (distance,), one)
    yield Population("HD95, 3 in 100 missed", "mean", (with_misses(distance, 0.03, 120.0),), one)
    volume = 2 * np.exp(0.7 * rng.standard_normal(n))
    predicted = volume * np.exp(0.03 + 0.12 * rng.standard_t(4, n))
    yield Population("volume error", "mean", (predicted - volume,), one)
    change = with_misses(0.003 + 0.01 * rng.standard_t(4, n), 0.3, 0.0)
    yield Population("of two versions' Dice, 30 in 100 alike", "difference", (change, np.zeros(n)), one)
    lesion_count = 1 + rng.poisson(2, n)
    hits = rng.binomial(lesion_count, rng.beta(4, 1, n))
    yield Population("lesions found", "rate", (hits.astype(float), lesion_count.astype(float)), one)
    yield Population("structure found, 95 in 100", "rate", ((rng.random(n) < 0.95).astype(float), np.ones(n)), one)
    yield Population("interval", "volume", (with_misses(predicted, 0.01, 0.0), volume), one)


if __name__ == "__main__":
    main()
