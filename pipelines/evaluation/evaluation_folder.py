"""What an evaluation leaves: the report for people, the same figures for programs, and the label maps themselves.

index.html       the report, one file               metrics.json    means with intervals, what was left out
cases.parquet    a row a structure and case         details.json    group by group; what confidence was worth
cases.csv        the same, to open                  summary.json    as nnU-Net's evaluation writes it
predictions/     CASE.nii.gz, structure ids on the scan's own grid
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.evaluation import cohort, exports, heart, tables, telling, trust
from pipelines.evaluation.score import Score
from pipelines.pages.evaluation import report
from pipelines.pages.evaluation.content import Viewed
from pipelines.scans.vocabulary import Vocabulary
from pipelines.work.writing import write_json

log = logging.getLogger(__name__)

PREDICTIONS, METRICS, DETAILS, REPORT = "predictions", "metrics.json", "details.json", "index.html"
IN_DETAIL = ("groups", "confidence", "calibration")  # apart, so that `dvc metrics diff` fits on a page


def write(
    folder: Path,
    scores: Sequence[Score],
    content: Mapping[str, Any],
    words: Vocabulary,
    facts: Mapping[str, str],
    draw: Callable[[str], Viewed | None],
    title: str = "Evaluation",
    tolerance_from: str = telling.TOLERANCE_FROM,
) -> None:
    """All but the label maps. `content`: as `summarised` gives it. `draw`: a case to look at; None, or an error of a
    file, leaves it out of the pictures and nothing else."""
    write_json(folder / METRICS, {key: value for key, value in content.items() if key not in IN_DETAIL})
    write_json(folder / DETAILS, {key: content[key] for key in IN_DETAIL})
    tables.write(folder, scores)
    exports.write_nnunet(folder / exports.NNUNET, scores, words)
    seen = drawn(scores, draw)
    report.write(folder / REPORT, telling.as_report(title, scores, content, words, facts, seen, tolerance_from))


def drawn(scores: Sequence[Score], draw: Callable[[str], Viewed | None]) -> list[Viewed]:
    """The most interesting cases. A picture that cannot be drawn is no reason to lose the figures."""
    found = []
    for case_id in telling.interesting(scores):
        try:
            viewed = draw(case_id)
        except (ValueError, OSError, MemoryError) as error:
            log.warning("evaluate: %s is not drawn: %s", case_id, error)
            continue
        found += [viewed] if viewed else []
    return found


def summarised(
    scores: Sequence[Score], words: Vocabulary, told: Mapping[str, Any], calibration: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The content of metrics.json and details.json. `told`: what the figures are of, and `left_out`: case -> reason."""
    content = {
        **cohort.summarise(scores, words),
        "heart": heart.errors(scores),
        "confidence": trust.of_structures(scores),
        "calibration": calibration,
        **told,
    }
    return {**content, "told": list(telling.sentences(scores, content))}


def facts_of(content: Mapping[str, Any]) -> dict[str, str]:
    """What the report says that its figures are of."""
    conditions, identity = content["conditions"], content["identity"]
    return {
        "weights": content["weights_sha256"][:12],
        "scans": f"{content['cases']} of {content['patients']} patients",
        "windows": f"overlap {conditions['overlap']:g}"
        + (f", mirrored along {len(conditions['flips'])} axes" if conditions.get("flips") else ""),
        "precision": conditions["precision"],
        "made of": ", ".join(f"{name} {value[:12]}" for name, value in sorted(identity.items()) if value),
    }
