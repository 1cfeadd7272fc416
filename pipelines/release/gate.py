"""May a version be released? Its scores against the plan's floors and, paired by case, against the champion's.

    decide(candidate, champion, plan, looks) -> Verdict

Three verdicts: it passes; it fails; it cannot be told, because too few were measured or the two are not comparable.
Only the first releases. Every check must pass: a version that is inferior in one structure gets through only by
passing that very check, whatever the others do. So the chance of a false promotion is at most that of one check, and no
level is adjusted for their number (an intersection-union test; Berger 1982). Reads and writes nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from pipelines.evaluation import statistics
from pipelines.evaluation.definitions import BY_KEY
from pipelines.evaluation.score import Score, structures_of
from pipelines.release.measurement import Measured as Measured
from pipelines.release.measurement import measured as measured
from pipelines.release.pairing import fewest_for, lower_bound, paired_cells
from pipelines.release.plan import PerformanceEvaluation, ReleasePlan
from pipelines.work.wording import counted

Result = Literal["passes", "fails", "cannot tell"]
PASSES: Final = "passes"
FAILS: Final = "fails"
CANNOT_TELL: Final = "cannot tell"


@dataclass(frozen=True)
class Check:
    """`value`: what was found, `low` the bound of its interval where it has one, `bound` what the plan demands.
    `reason`: a sentence with the remedy, where it does not pass."""

    name: str
    result: Result
    structure: str = ""
    group: str = ""
    metric: str = ""
    value: float | None = None
    low: float | None = None
    bound: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    verdict: Result
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "reasons": list(self.reasons), "checks": [asdict(check) for check in self.checks]}


def decide(candidate: Measured, champion: Measured | None, plan: ReleasePlan, looks: int) -> Verdict:
    """`champion`: what the candidate would replace, if any. `looks`: at this test set so far."""
    return judge(checks(candidate, champion, plan, looks))


def checks(candidate: Measured, champion: Measured | None, plan: ReleasePlan, looks: int) -> list[Check]:
    return [*_alone(candidate, plan.bounds, looks), *_against(candidate, champion, plan.bounds)]


def judge(made: Sequence[Check]) -> Verdict:
    """One failure fails; else one that cannot be told is enough not to pass."""
    found = {check.result for check in made}
    verdict: Result = FAILS if FAILS in found else CANNOT_TELL if CANNOT_TELL in found or not made else PASSES
    reasons = [check.reason for result in (FAILS, CANNOT_TELL) for check in made if check.result == result]
    return Verdict(verdict, tuple(dict.fromkeys(reasons)), tuple(made))


def _alone(candidate: Measured, bounds: PerformanceEvaluation, looks: int) -> Iterator[Check]:
    yield from _commits(candidate.origin)
    yield at_most("looks at the test set", looks, bounds.looks_allowed, "hold out fresh scans, under a new plan")
    yield at_most(
        "left out", len(candidate.left_out), bounds.left_out_allowed,
        f"of the held-out scans, {', '.join(list(candidate.left_out)[:3]) or 'none'} could not be measured; mend them",
    )  # fmt: skip
    yield from _numbers(candidate.scores, bounds)
    for name in dict.fromkeys([*candidate.structures, *bounds.named_structures()]):
        yield _measured(name, candidate.scores, "the network tells it apart, or the plan names it")
    for metric in bounds.floors:
        yield from _floors(metric, candidate.scores, bounds)
    yield from _calibration(candidate, bounds)


def _against(candidate: Measured, champion: Measured | None, bounds: PerformanceEvaluation) -> Iterator[Check]:
    if champion is None:
        return
    if candidate.test_set_sha256 != champion.test_set_sha256:
        yield Check(
            "same test set", CANNOT_TELL,
            reason=f"the champion was measured on test set {champion.test_set_sha256[:12]}, the candidate on another, "
            f"{candidate.test_set_sha256[:12]}; ask where the candidate's scans lie, to have both measured on them",
        )  # fmt: skip
        return
    yield Check("same test set", PASSES)
    yield from _same_cases(candidate, champion)
    for name in structures_of(score for score in champion.scores if score.present):
        yield _measured(name, candidate.scores, "the champion was measured on it")
    yield _new_misses(candidate.scores, champion.scores, bounds)
    yield from _non_inferior(candidate.scores, champion.scores, bounds)


def _commits(origin: Mapping[str, str]) -> Iterator[Check]:
    """A version that nobody can make again is not released."""
    for what in ("git_commit", "program"):
        commit = origin.get(what) or "unknown"
        sound = commit != "unknown" and not commit.endswith("-dirty")
        yield Check(
            f"commit of the {'project' if what == 'git_commit' else what}", PASSES if sound else FAILS,
            reason="" if sound else f"{what} is {commit}: what made the version is in no commit; commit it, then "
            "`medseg run` and register again",
        )  # fmt: skip


def _numbers(scores: Sequence[Score], bounds: PerformanceEvaluation) -> Iterator[Check]:
    for noun, fewest, found in (
        ("case", bounds.fewest_cases, {score.case_id for score in scores}),
        ("patient", bounds.fewest_patients, {score.patient for score in scores}),
    ):
        enough = len(found) >= fewest
        yield Check(
            f"enough {noun}s", PASSES if enough else CANNOT_TELL, value=len(found), bound=fewest,
            reason="" if enough else f"{counted(len(found), f'held-out {noun}')} of at least {fewest}; hold out more, "
            "`medseg gate power` tells how many",
        )  # fmt: skip


def _measured(name: str, scores: Sequence[Score], why: str) -> Check:
    """A structure that was trained and never held out has shown nothing."""
    drawn = sum(score.structure == name and score.status in ("scored", "missed") for score in scores)
    return Check(
        "measured", PASSES if drawn else FAILS, name, value=drawn, bound=1,
        reason="" if drawn else f"{name}: no held-out scan has it, and {why}; hold out scans annotated with it",
    )  # fmt: skip


def _floors(metric: str, scores: Sequence[Score], bounds: PerformanceEvaluation) -> Iterator[Check]:
    for name in structures_of(score for score in scores if score.present):
        own = [score for score in scores if score.structure == name]
        found = statistics.mean(
            [getattr(score, metric) for score in own], [score.patient for score in own], fewest_for(metric, bounds)
        )
        if found.estimate is None:  # such as lesions of an organ
            continue
        floor, low = bounds.floor(metric, name), lower_bound(found)
        yield _bounded(
            Check("floor", PASSES, name, "", metric, found.estimate, low, floor),
            f"{name}: {BY_KEY[metric].name}",
            low is not None and low >= floor,
            found,
        )


def _non_inferior(
    candidate: Sequence[Score], champion: Sequence[Score], bounds: PerformanceEvaluation
) -> Iterator[Check]:
    for cell in paired_cells(candidate, champion, bounds):
        found = statistics.mean(cell.gains, cell.patients, cell.fewest)
        low = lower_bound(found)
        yield _bounded(
            Check(
                "no worse than the champion", PASSES, cell.structure, cell.group, cell.metric, found.estimate, low,
                -cell.margin,
            ),
            f"{cell.shown}: gain in {BY_KEY[cell.metric].name} over the champion",
            low is not None and low > -cell.margin,
            found,
        )  # fmt: skip


def _bounded(check: Check, what: str, holds: bool, found: statistics.Interval) -> Check:
    """`check`, by whether its lower bound holds; how surely it does not is told."""
    assert check.value is not None
    assert check.bound is not None
    if check.low is None:
        reason = f"{what} {check.value:.3f} in {counted(found.patients, 'patient')}: {found.note} for an interval"
        return Check(**{**asdict(check), "result": CANNOT_TELL, "reason": f"{reason}; hold out more"})
    if holds:
        return check
    sure = found.high is None or found.high < check.bound
    reason = (
        f"{what} {check.value:.3f} is below {check.bound:.3f}"
        if sure
        else f"{what} {check.value:.3f} may be below {check.bound:.3f}, its lower bound is {check.low:.3f}"
    )
    return Check(**{**asdict(check), "result": FAILS, "reason": f"{reason}; train longer or with more scans of it"})


def _same_cases(candidate: Measured, champion: Measured) -> Iterator[Check]:
    """Leaving out the hard ones is no improvement."""
    missing = sorted({s.case_id for s in champion.scores} - {s.case_id for s in candidate.scores})
    yield Check(
        "same cases", FAILS if missing else PASSES, value=len(missing), bound=0,
        reason="" if not missing else f"{counted(len(missing), 'case')} that the champion was measured on, such as "
        f"{missing[0]}, and the candidate was not; evaluate it on all",
    )  # fmt: skip


def _new_misses(candidate: Sequence[Score], champion: Sequence[Score], bounds: PerformanceEvaluation) -> Check:
    found_before = {(score.case_id, score.structure) for score in champion if score.status == "scored"}
    new = [s for s in candidate if s.status == "missed" and (s.case_id, s.structure) in found_before]
    named = ", ".join(f"{score.structure} in {score.case_id}" for score in new[:3])
    return at_most("new misses", len(new), bounds.new_misses_allowed, f"the champion finds {named}")


def _calibration(candidate: Measured, bounds: PerformanceEvaluation) -> Iterator[Check]:
    """Of nothing to calibrate - no voxel was held against a reference - nothing is known."""
    name, allowed = "calibration error", bounds.calibration_error_at_most
    if allowed is None:
        return
    if candidate.calibration_error is None:
        yield Check(name, CANNOT_TELL, bound=allowed, reason=f"{name}: not measured; evaluate the version again")
    else:
        yield at_most(name, candidate.calibration_error, allowed, "train longer")


def at_most(name: str, value: float, bound: float, remedy: str) -> Check:
    holds = value <= bound
    reason = "" if holds else f"{name}: {value:.4g}, and the plan allows {bound:g}; {remedy}"
    return Check(name, PASSES if holds else FAILS, value=value, bound=bound, reason=reason)
