"""How often the release gate errs: promotes a version that is worse by the margin, refuses one that is as good.

Run     python -m benchmarks.gate_errors CANDIDATE.parquet CHAMPION.parquet     # cases.parquet of two evaluations
        python -m benchmarks.gate_errors A.parquet B.parquet --patients 41 --repetitions 200
Prints  a Markdown table: percent of test sets on which the whole gate (release/plan.yaml) says "passes"
Expect  8 CPU minutes for 41 hippocampi: at most 2.5 % at the margin

The patients of both files, with all of their cases, are the population. Test sets are drawn from it with replacement,
and the gate is asked as it is in a release. Of the candidate's figures only their spread about the champion's is kept:
to each is added what makes the true mean difference the one in question, so what should pass is known.
"""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # a process a core; before numpy is imported

import numpy as np  # noqa: E402

from pipelines.evaluation import tables  # noqa: E402
from pipelines.evaluation.definitions import BY_KEY  # noqa: E402
from pipelines.evaluation.score import Score, structures_of  # noqa: E402
from pipelines.release import gate, plan  # noqa: E402
from pipelines.release.gate import Measured  # noqa: E402
from pipelines.release.plan import ReleasePlan  # noqa: E402

HERE = Path(__file__).parents[1]
PATIENTS, REPETITIONS, SEED = (41, 100), 600, 31
MISSED = 0.04  # worse than the margin of Dice by that alone
COMMITTED = {"git_commit": "0" * 40, "program": "0" * 40}
Pair = tuple[Score, Score]


@dataclass(frozen=True)
class Truth:
    """`share`: true mean difference of every metric that the plan compares, in its margins; of structure `only`, where
    one is named, the others being better by a margin. `missed`: share of patients whose first structure is not found.
    """

    name: str
    share: float
    only: str = ""
    missed: float = 0.0

    def of(self, structure: str) -> float:
        return self.share if self.only in ("", structure) else 1.0


@dataclass(frozen=True)
class GatePopulation:
    """`pairs`: by patient, (candidate, champion); `shifts`: (structure, metric) -> mean difference in it."""

    pairs: list[list[Pair]]
    shifts: dict[tuple[str, str], float]
    structures: list[str]
    plan: ReleasePlan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidate", type=Path)
    parser.add_argument("champion", type=Path)
    parser.add_argument("--patients", type=int, nargs="+", default=PATIENTS)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    population = populated(tables.read(chosen.candidate), tables.read(chosen.champion))
    asked = [(truth, count) for truth in truths(population.structures) for count in chosen.patients]
    with ProcessPoolExecutor(chosen.workers) as workers:
        futures = [workers.submit(passing, population, *each, chosen.repetitions) for each in asked]
        found = {each: future.result() for each, future in zip(asked, futures, strict=True)}
    print(f"{len(population.pairs)} patients, {chosen.repetitions} repetitions, one standard error at 2.5: "
          f"{100 * (0.025 * 0.975 / chosen.repetitions) ** 0.5:.1f} points\n")  # fmt: skip
    print("| the candidate truly is | " + " | ".join(f"{count} patients" for count in chosen.patients) + " |")
    print("|---|" + "--:|" * len(chosen.patients))
    for truth in truths(population.structures):
        print(f"| {truth.name} | " + " | ".join(f"{found[truth, n]:.1f}" for n in chosen.patients) + " |", flush=True)


def truths(structures: Sequence[str]) -> list[Truth]:
    """At the margin in one structure with the others better is where a false promotion is likeliest."""
    alone = [Truth(f"worse by the margin in {name}, better in the others", -1.0, name) for name in structures]
    shares = ((-1.0, "by the margin"), (-0.75, "by 3/4 of it"), (-0.5, "by 1/2"), (-0.25, "by 1/4"))
    everywhere = [Truth(f"worse {told} in all", share) for share, told in shares]
    missing = Truth(f"as good, but missing {structures[0]} in {MISSED:.0%} of patients", 0.0, missed=MISSED)
    return [*alone, *everywhere, Truth("as good", 0.0), missing]


def populated(candidate: Sequence[Score], champion: Sequence[Score]) -> GatePopulation:
    read = plan.read(HERE / plan.FILE)
    bounds = read.bounds.model_copy(update={"calibration_error_at_most": None})  # no matter of cases
    protocol = read.modification_protocol.model_copy(update={"performance_evaluation": bounds})
    theirs = {(score.case_id, score.structure): score for score in champion}
    pairs: dict[str, list[Pair]] = {}
    for score in candidate:
        if other := theirs.get((score.case_id, score.structure)):
            pairs.setdefault(score.patient, []).append((score, other))
    structures = structures_of(score for own in pairs.values() for score, _ in own)
    shifts = {
        (name, metric): float(np.mean([
            getattr(one, metric) - getattr(other, metric)
            for own in pairs.values() for one, other in own if one.structure == name
        ]))
        for name in structures for metric in bounds.margins
    }  # fmt: skip
    return GatePopulation(
        list(pairs.values()), shifts, structures, read.model_copy(update={"modification_protocol": protocol})
    )


def passing(population: GatePopulation, truth: Truth, count: int, repetitions: int) -> float:
    """Percent of test sets of `count` patients that the gate passes."""
    rng = np.random.default_rng((SEED, count))
    verdicts = [_verdict(population, truth, count, rng) for _ in range(repetitions)]
    return 100 * verdicts.count(gate.PASSES) / repetitions


def _verdict(population: GatePopulation, truth: Truth, count: int, rng: np.random.Generator) -> str:
    candidate: list[Score] = []
    champion: list[Score] = []
    for number, drawn in enumerate(rng.integers(0, len(population.pairs), count)):
        misses = rng.random() < truth.missed
        for one, other in population.pairs[drawn]:
            named = {"patient": str(number), "case_id": f"{number}-{one.case_id}"}
            champion.append(replace(other, **named))
            candidate.append(replace(_made(one, other, population, truth, misses), **named))
    told = [Measured(each, population.structures, "", origin=COMMITTED) for each in (candidate, champion)]
    return gate.decide(told[0], told[1], population.plan, 1).verdict


def _made(one: Score, other: Score, population: GatePopulation, truth: Truth, misses: bool) -> Score:
    """The candidate's score, its mean difference to the champion's the true one."""
    if misses and one.structure == population.structures[0]:
        return replace(one, status="missed", dice=0.0, mean_surface_mm=one.diagonal_mm)
    share, values = truth.of(one.structure), {}
    for metric in population.plan.bounds.margins:
        better = 1 if BY_KEY[metric].better == "higher" else -1
        step = better * share * population.plan.bounds.margin(metric, one.structure)
        values[metric] = getattr(one, metric) - population.shifts[one.structure, metric] + step
    return replace(one, status=other.status, **values)


if __name__ == "__main__":
    main()
