"""What an evaluation report tells: plain values that whoever evaluates fills in.

Nothing in it may name a patient: cases go by pseudonym, texts hold no paths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Value = str | float | bool | None
Colour = tuple[int, int, int]
MOST_LABELS = 254  # a byte holds them, background and another structure


@dataclass(frozen=True)
class MetricTold:
    """`key`: of a row's value. `better`: whether high or low values (by size, if they have a sign) are good ones.

    `unit`: "" for shares. `definition`, `edges` (what counts when a side is empty), `source`: sentences.
    """

    key: str
    name: str
    unit: str
    better: Literal["higher", "lower"]
    definition: str
    edges: str = ""
    source: str = ""


@dataclass(frozen=True)
class StructureTold:
    """`name`: as rows have it. `values`: of the labels in the viewer that make it up, several for a region.

    `tolerance_mm`, `tolerance_from`: of surface Dice, and who chose it. `warnings`: where its figures mislead.
    """

    name: str
    shown: str
    colour: Colour
    tolerance_mm: float | None = None
    tolerance_from: str = ""
    warnings: Sequence[str] = ()
    values: Sequence[int] = ()


@dataclass(frozen=True)
class LabelTold:
    """A value in the viewer's layers, and what it is."""

    value: int
    shown: str
    colour: Colour


@dataclass(frozen=True, eq=False)
class Viewed:
    """A case to look at. `image`: uint8 (D, H, W), windowed; axes towards head, front and the patient's right.

    `layers`: label maps on the same grid by name: "reference", "prediction" and, in a comparison, "other".
    """

    case_id: str
    title: str
    image: np.ndarray
    spacing_mm: tuple[float, float, float]
    layers: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ComparisonTold:
    """Two versions on the same cases. `names`: of "prediction" and of "other".

    `differences`: structure, metric, mean (the first's minus the other's), low, high, n, note.
    `other_rows`: the other version's rows, if each case's pair shall be drawn. `pictures`: PNG files with their titles.
    """

    names: tuple[str, str]
    differences: Sequence[Mapping[str, Value]] = ()
    other_rows: Sequence[Mapping[str, Value]] = ()
    pictures: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True)
class Content:
    """`rows`: one a case and structure - case_id, structure, status (scored, missed, invented, absent), cut, source,
    modality, site, scanner, slice_mm, size, reference_ml, predicted_ml, confidence, flip_dice and every metric's key.

    `summaries`: group, value, structure, metric, n, cases_absent, mean, low, high, note, q25, median, q75.
    `confidence`: a structure each - structure, risk_coverage (coverage, risk, aurc, aurc_random), spearman, volume
    (told, level, measured_coverage, n, note). `calibration`: bins (predicted, observed, count), error.
    `viewed`: the most interesting first; later ones are left out where the file would grow too large.
    `labels`: what values in the viewer's layers mean; if there are none, those of structures of one value.
    """

    title: str
    facts: Mapping[str, str]
    summary: Sequence[str]
    metrics: Sequence[MetricTold]
    structures: Sequence[StructureTold]
    rows: Sequence[Mapping[str, Value]]
    summaries: Sequence[Mapping[str, Value]]
    notes: Sequence[str] = ()
    left_out: Sequence[tuple[str, str]] = ()
    confidence: Sequence[Mapping[str, Any]] = ()
    calibration: Mapping[str, Any] | None = None
    viewed: Sequence[Viewed] = ()
    labels: Sequence[LabelTold] = field(default=())
    comparison: ComparisonTold | None = None

    def label_list(self) -> list[LabelTold]:
        """In the order of their values; those after the first MOST_LABELS are drawn as one other structure."""
        single = [
            LabelTold(each.values[0], each.shown, each.colour) for each in self.structures if len(each.values) == 1
        ]
        return sorted(self.labels or single, key=lambda label: label.value)[:MOST_LABELS]
