"""The release plan: release/plan.yaml, typed. What must be shown before a version may replace another.

    read() -> ReleasePlan             of the project
    digest(plan) -> sha256            of its content, not of comments and spelling: what training notes beforehand

Its sections have the names of the FDA's Predetermined Change Control Plans. pipelines/release/gate.py decides by it.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pipelines.evaluation import statistics
from pipelines.evaluation.definitions import BY_KEY
from pipelines.params.block import Block, Fraction
from pipelines.params.reading import parse_value
from pipelines.release import canonical
from pipelines.work import project
from pipelines.work.wording import did_you_mean, short

FILE = Path("release/plan.yaml")
DEFAULT = "default"
HIGHER = tuple(key for key, metric in BY_KEY.items() if metric.better == "higher")
Kind = Literal["source", "site", "scanner", "modality", "slice", "phase", "size"]


class DescriptionOfModifications(Block):
    intended_use: str = Field(min_length=1)
    not_intended: str = Field(min_length=1)
    modifications: tuple[str, ...] = Field(min_length=1, description="what a new version may change under this plan")
    not_covered: tuple[str, ...] = Field(description="what needs another plan")


class PerformanceEvaluation(Block):
    """Every check must pass; docs/release.md says why none of them is then adjusted for their number."""

    level: float = Field(description="of intervals, two-sided")
    fewest_cases: int = Field(ge=1)
    fewest_patients: int = Field(ge=1)
    looks_allowed: int = Field(ge=1, description="evaluations and comparisons on one test set")
    left_out_allowed: int = Field(ge=0, description="held-out scans that could not be measured")
    new_misses_allowed: int = Field(ge=0, description="structures of a scan found by the champion only")
    margins: dict[str, dict[str, float]] = Field(
        min_length=1,
        description="metric -> structure or `default` -> how much worse than the champion's its mean may be",
    )
    subgroups: dict[Kind, float] = Field(
        description="kind -> how many times the margin is allowed in each of its groups"
    )
    floors: dict[str, dict[str, float]] = Field(
        min_length=1, description="metric -> structure or `default` -> what the lower bound of its mean must reach"
    )
    calibration_error_at_most: Fraction | None = None
    seconds_per_case_at_most: float | None = Field(default=None, gt=0)
    memory_gib_at_most: float | None = Field(default=None, gt=0)

    @field_validator("level")
    @classmethod
    def _simulated(cls, level: float) -> float:
        if level != statistics.LEVEL:
            raise ValueError(f"must be {statistics.LEVEL}, the one whose coverage is simulated (docs/statistics.md)")
        return level

    @field_validator("subgroups")
    @classmethod
    def _factors(cls, subgroups: dict[Kind, float]) -> dict[Kind, float]:
        if wrong := [kind for kind, factor in subgroups.items() if factor <= 0]:
            raise ValueError(f"{wrong[0]}: {subgroups[wrong[0]]:g} must be above 0")
        return subgroups

    @model_validator(mode="after")
    def _known_metrics(self) -> "PerformanceEvaluation":
        for block, known in (("margins", tuple(BY_KEY)), ("floors", HIGHER)):
            for metric, table in getattr(self, block).items():
                if metric not in known:
                    raise ValueError(f"{block}: no metric {metric!r}{did_you_mean(metric, known)}: {', '.join(known)}")
                if DEFAULT not in table:
                    raise ValueError(f"{block}.{metric} has no entry `default`; add e.g. `default: 0.03`")
        for metric, table in self.margins.items():
            if wrong := [name for name, margin in table.items() if margin <= 0]:
                raise ValueError(f"margins.{metric}.{wrong[0]}: {table[wrong[0]]:g} must be above 0")
        return self

    def margin(self, metric: str, structure: str) -> float:
        return self.margins[metric].get(structure, self.margins[metric][DEFAULT])

    def floor(self, metric: str, structure: str) -> float:
        return self.floors[metric].get(structure, self.floors[metric][DEFAULT])

    def named_structures(self) -> list[str]:
        """Those that margins or floors speak of by name: they must be measured."""
        tables = (*self.margins.values(), *self.floors.values())
        return list(dict.fromkeys(name for table in tables for name in table if name != DEFAULT))


class ModificationProtocol(Block):
    data_management: str = Field(min_length=1)
    retraining: str = Field(min_length=1)
    performance_evaluation: PerformanceEvaluation
    update: str = Field(min_length=1)


class Risk(Block):
    risk: str = Field(min_length=1)
    mitigation: str = Field(min_length=1)


class ImpactAssessment(Block):
    benefits: tuple[str, ...] = Field(min_length=1)
    risks: tuple[Risk, ...] = Field(min_length=1)


class ReleasePlan(Block):
    """All of release/plan.yaml."""

    description_of_modifications: DescriptionOfModifications
    modification_protocol: ModificationProtocol
    impact_assessment: ImpactAssessment

    @property
    def bounds(self) -> PerformanceEvaluation:
        return self.modification_protocol.performance_evaluation


def read(path: Path | None = None) -> ReleasePlan:
    """The project's. Raises ValueError naming every wrong key, or that there is none."""
    return parse(text(path), str(path or FILE))


def text(path: Path | None = None) -> str:
    try:
        return (path or project.root() / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path or FILE}: no such file; `medseg init .` writes one to begin with") from None


def parse(text: str, told_as: str = str(FILE)) -> ReleasePlan:
    """`told_as`: what an error calls the text."""
    try:  # in JSON mode: strict types, yet lists become tuples
        return ReleasePlan.model_validate_json(json.dumps(parse_value(text, told_as), default=str))
    except ValidationError as error:
        raise ValueError("; ".join(_explain(told_as, detail) for detail in error.errors())) from None


def digest(plan: ReleasePlan) -> str:
    """sha256 of its content."""
    return canonical.digest(plan.model_dump(mode="json"))


def _explain(told_as: str, detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "value_error":
        return f"{told_as}: {key}: {detail['ctx']['error']}"
    if detail["type"] == "extra_forbidden":
        return f"{told_as}: unknown key {key} = {short(detail['input'])}; remove or rename it"
    if detail["type"] == "missing":
        return f"{told_as}: {key} is missing; add it, as in {project.SHIPPED / 'plan.yaml'}"
    bound = detail["msg"].replace("Input should be", "must be")
    return f"{told_as}: {key} = {short(detail['input'])}: {bound}"
