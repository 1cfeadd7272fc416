"""Other 95 % intervals of the same samples' means: do they hold the truth, and does a miss improve a bound?

Run     python -m benchmarks.rival_intervals [CASES ...] [--patients 20 41] [--repetitions 1000]
Prints  a Markdown table. The last column: in how many samples of a hundred a bound rises if a case becomes a miss, the
        best one or the worst
Expect  5 minutes on a core: BCa takes most of it

Of Dice with one case a patient, as a miss is 0 there; the files and invented distributions of `benchmarks.intervals`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from benchmarks.intervals import Population, invented, measured
from pipelines.evaluation import statistics

ROUNDING = 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", type=Path)
    parser.add_argument("--patients", type=int, nargs="+", default=[20, 41])
    parser.add_argument("--repetitions", type=int, default=1000)
    chosen = parser.parse_args()
    populations = measured(chosen.cases, ["dice"]) if chosen.cases else invented()
    print(
        "| population | patients | interval | coverage | mean width | improved by a miss |\n|---|--:|---|--:|--:|--:|"
    )
    for population in populations:
        if population.kind == "mean" and _is_dice_of_patients(population):
            for n in chosen.patients:
                for line in compared(population, n, chosen.repetitions):
                    print(line, flush=True)


def compared(population: Population, n: int, repetitions: int) -> Iterator[str]:
    values, rng, rows = population.columns[0], np.random.default_rng(1), np.arange(repetitions)
    samples = rng.choice(values, (repetitions, n))
    for name, interval in RIVALS.items():
        low, high = before = interval(samples)
        better = np.zeros(repetitions, bool)
        for case in (samples.argmax(axis=1), samples.argmin(axis=1)):
            missed = samples.copy()
            missed[rows, case] = 0.0
            better |= (interval(missed) > before + ROUNDING).any(axis=0)
        held = 100 * np.mean((low <= values.mean()) & (values.mean() <= high))
        told = f"{held:.1f} | {np.mean(high - low):.3g} | {100 * better.mean():.0f} of 100"
        yield f"| {population.name} | {n} | {name} | {told} |"


def _is_dice_of_patients(population: Population) -> bool:
    alone = population.patient[-1] == len(population.patient) - 1
    return alone and population.name.lower().startswith("dice")


def _students(samples: np.ndarray) -> np.ndarray:
    n = samples.shape[1]
    half = stdtrit(n - 1, 0.975) * samples.std(axis=1, ddof=1) / n**0.5
    return np.stack((samples.mean(axis=1) - half, samples.mean(axis=1) + half))


def _scipys(samples: np.ndarray, method: str) -> np.ndarray:
    from scipy.stats import bootstrap

    told = [bootstrap((each,), np.mean, method=method, n_resamples=2000, rng=0).confidence_interval for each in samples]
    return np.array(told).T


def _ours(samples: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    told = [statistics.mean(each, np.arange(len(each))) for each in samples]
    return np.array([(each.low, each.high) for each in told], float).T


RIVALS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Student's t": _students,
    "bootstrap, percentile": lambda samples: _scipys(samples, "percentile"),
    "bootstrap, BCa": lambda samples: _scipys(samples, "BCa"),
    "ours": _ours,
}

if __name__ == "__main__":
    main()
