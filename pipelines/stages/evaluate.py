"""Segment the held-out scans and measure (DVC stage `evaluate`).

Reads   models/train, data/cases/test, data/manifest.parquet, the held-out labels, params.yaml: evaluate
Writes  reports/evaluate/: metrics.json, cases.csv, montage.png
Run     python -m pipelines evaluate       # 41 hippocampus scans on 2 cores: about 5 s

Every prediction is mapped back to the scan's own grid and compared with the label as the source wrote it there. A case
is scored on the structures its source annotated. A missed structure counts as 0; one that neither has says nothing.
"""

import csv
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model import weights
from model.data import casefile
from model.data.casefile import Case
from model.metrics import dice, mean
from pipelines import params
from pipelines.pages import montage
from pipelines.scans import manifest, scan_files
from pipelines.scans.manifest import TEST, Row
from pipelines.scans.structures import BY_NAME, REGIONS, contract_of
from pipelines.scans.volume import Geometry, restore
from pipelines.serving.conditions import Conditions
from pipelines.serving.segmenter import Segmenter, cached_segmenter, scans_at_a_time
from pipelines.work import parallel, project
from pipelines.work.writing import replacing, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """One structure or region in one case. `dice` is NaN where neither label nor prediction has it."""

    case_id: str
    source: str
    structure: str
    dice: float
    reference_voxels: int
    predicted_voxels: int


def main() -> None:
    settings = params.load().evaluate
    rows = {row.case_id: row for row in manifest.read()}
    cases = sorted((project.CASES / TEST).glob("*.safetensors"))
    conditions = Conditions.of_here(settings.overlap)
    work = partial(evaluate_case, rows=rows, weights=project.TRAINED, conditions=conditions)
    results = parallel.each(work, cases, "evaluate", lambda path: path.stem, scans_at_a_time())
    done = [result for result in results if result is not None]
    if not done:
        raise ValueError(f"{project.CASES / TEST} holds no labelled case; raise data.test_fraction or add scans")
    scores = [score for own, _ in done for score in own]
    summary = {**summarise(scores), **_measured_on(project.TRAINED), "conditions": conditions.to_json()}
    with replacing(project.EVALUATION) as folder:
        folder.mkdir()
        write_json(folder / "metrics.json", summary)
        _write_csv(folder / "cases.csv", scores)
        montage.draw(folder / "montage.png", [picture for _, picture in done])
    _report(summary)


def _measured_on(trained: Path) -> dict[str, Any]:
    """What the figures are of."""
    return {"weights_sha256": weights.digest(trained), "identity": weights.read_card(trained).identity}


def evaluate_case(
    path: Path, rows: dict[str, Row], weights: Path, conditions: Conditions
) -> tuple[list[Score], montage.Comparison] | None:
    """Scores and a picture of one held-out case file; None if it carries no label."""
    case = casefile.read(path)
    if case.record.split != TEST:
        raise ValueError(f"{path} is of split {case.record.split!r}, not {TEST}; rerun preprocess")
    if not case.record.annotated:
        return None
    segmenter = cached_segmenter(weights, conditions)
    reference, predicted = segment_case(segmenter, case, rows[case.record.case_id])
    scores = list(score_case(case, reference, predicted))
    return scores, montage.compare(case, segmenter.predicted_on_grid, mean([score.dice for score in scores]))


def _report(summary: dict[str, Any]) -> None:
    for source, structures in summary["by_source"].items():
        for structure, entry in structures.items():
            shown = "-" if entry["dice"] is None else f"{entry['dice']:.3f}"
            log.info("evaluate: %-16s %-24s Dice %s (%d cases)", source, structure, shown, entry["cases"])


def segment_case(segmenter: Segmenter, case: Case, row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Reference and prediction as structure ids, both on the file's own grid."""
    predicted = segmenter.segment(
        np.asarray(case.image), case.record.modalities, case.record.source, Geometry.from_json(case.record.geometry)
    )
    assert row.label is not None
    label = scan_files.read(row, row.label)
    return restore(contract_of(row.contract).to_structures(label.array), Geometry.of(label)), predicted


def score_case(case: Case, reference: np.ndarray, predicted: np.ndarray) -> Iterable[Score]:
    """Every annotated structure, and every region whose parts were all annotated."""
    annotated = case.record.annotated
    for name in (*annotated, *(region for region, parts in REGIONS.items() if set(parts) <= set(annotated))):
        ids = [BY_NAME[part].id for part in REGIONS.get(name, (name,))]
        one, other = np.isin(reference, ids), np.isin(predicted, ids)
        yield Score(case.record.case_id, case.record.source, name, dice(one, other), int(one.sum()), int(other.sum()))


def summarise(scores: list[Score]) -> dict[str, Any]:
    """Means over cases: by structure, by source and structure. `mean_dice` is over structures, regions left out.

    None stands for a structure that no case has, as NaN is no JSON.
    """
    by_source: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for source in sorted({score.source for score in scores}):
        own = [score for score in scores if score.source == source]
        by_source[source] = {
            name: _entry([score for score in own if score.structure == name])
            for name in dict.fromkeys(score.structure for score in own)
        }
    names = list(dict.fromkeys(score.structure for score in scores))
    by_structure = {name: mean([score.dice for score in scores if score.structure == name]) for name in names}
    return {
        "mean_dice": _or_none(mean([value for name, value in by_structure.items() if name not in REGIONS])),
        "dice": {name: _or_none(value) for name, value in by_structure.items()},
        "by_source": by_source,
        "cases": len({score.case_id for score in scores}),
    }


def _entry(scores: list[Score]) -> dict[str, float | int | None]:
    known = [score.dice for score in scores if not math.isnan(score.dice)]
    return {"dice": _or_none(mean(known)), "cases": len(known)}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _write_csv(path: Path, scores: list[Score]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Score.__dataclass_fields__)
        for s in scores:
            writer.writerow([s.case_id, s.source, s.structure, f"{s.dice:.6f}", s.reference_voxels, s.predicted_voxels])
