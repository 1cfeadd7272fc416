"""What the hearts of a cohort pump: volumes at end-diastole and end-systole, and the ejection fraction of each patient.

Of a patient with two frames or more of a cine source, end-diastole (ED) is the frame whose reference has the largest
left ventricle, end-systole (ES) the one with the smallest, as those phases are defined; the prediction is read at the
same frames. Ejection fraction = (ED - ES) / ED, in percent (ACDC: Bernard et al. 2018).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.evaluation.score import Score

VENTRICLES = ("left_ventricle", "right_ventricle")
CINE = "CINE"
ED, ES = "ED", "ES"


@dataclass(frozen=True)
class Pumped:
    """One ventricle of one patient; ml and percent, of the reference and of the prediction."""

    patient: str
    ventricle: str
    reference_ed_ml: float
    reference_es_ml: float
    predicted_ed_ml: float
    predicted_es_ml: float

    @property
    def reference_percent(self) -> float:
        return _fraction(self.reference_ed_ml, self.reference_es_ml)

    @property
    def predicted_percent(self) -> float:
        return _fraction(self.predicted_ed_ml, self.predicted_es_ml)

    @property
    def error_percent(self) -> float:
        """Absolute, in points of ejection fraction; 100 where the prediction misses the ventricle at ED."""
        found = abs(self.predicted_percent - self.reference_percent)
        return 100.0 if math.isnan(found) else found


def phases(scores: Sequence[Score]) -> dict[str, str]:
    """case -> ED or ES, of patients whose left ventricle is seen in two cine frames or more."""
    by_patient: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        if score.structure == VENTRICLES[0] and CINE in score.modality.split("+"):
            by_patient[score.source, score.patient].append(score)
    found = {}
    for frames in by_patient.values():
        ordered = sorted(frames, key=lambda score: score.reference_ml)
        if len(frames) > 1 and ordered[0].reference_ml < ordered[-1].reference_ml:
            found[ordered[-1].case_id], found[ordered[0].case_id] = ED, ES
    return found


def pumped(scores: Sequence[Score]) -> list[Pumped]:
    """Of every patient with both phases and a reference of the ventricle at ED."""
    phase = phases(scores)
    frames: dict[tuple[str, str], dict[str, Score]] = defaultdict(dict)
    for score in scores:
        if score.structure in VENTRICLES and score.case_id in phase:
            frames[score.patient, score.structure][phase[score.case_id]] = score
    return [
        Pumped(patient, ventricle, ed.reference_ml, es.reference_ml, ed.predicted_ml, es.predicted_ml)
        for (patient, ventricle), both in sorted(frames.items())
        if (ed := both.get(ED)) and (es := both.get(ES)) and ed.reference_ml > 0
    ]


def errors(scores: Sequence[Score]) -> dict[str, Any]:
    """By ventricle: mean absolute error and bias of the ejection fraction in points, and the number of patients."""
    found: dict[str, Any] = {}
    everything = pumped(scores)
    for ventricle in VENTRICLES:
        own = [each for each in everything if each.ventricle == ventricle]
        if own:
            seen = [each for each in own if not math.isnan(each.predicted_percent)]
            bias = [each.predicted_percent - each.reference_percent for each in seen]
            found[ventricle] = {
                "mean_error_points": sum(each.error_percent for each in own) / len(own),
                "bias_points": sum(bias) / len(bias) if bias else None,
                "patients": len(own),
            }
    return found


def _fraction(ed_ml: float, es_ml: float) -> float:
    return 100 * (ed_ml - es_ml) / ed_ml if ed_ml > 0 else float("nan")
