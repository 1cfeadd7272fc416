"""Segment the held-out scans and measure (DVC stage `evaluate`).

Reads   models/train, data/cases/test, data/manifest.parquet, the held-out labels, params.yaml: evaluate,
        preprocess.memory_gib; data/cases/train, for what tells other scans from those of training
Writes  reports/evaluate/: index.html (the report), metrics.json, details.json, cases.parquet, cases.csv, summary.json
        (nnU-Net's), familiarity.safetensors, predictions/CASE.nii.gz; of gliomas brats/, as brats-evaluate takes them
Run     python -m pipelines evaluate       # 41 hippocampus scans on 2 cores: about 20 s

Every prediction is mapped back to the scan's own grid and compared with the label as the source wrote it there. A case
is scored on the structures its source annotated; what a missed one counts is said in pipelines/evaluation/measuring.py.
One that no scan of the cohort has is not scored.
A case that cannot be measured is left out, named in report and metrics.json, and bounded by
`evaluate.max_left_out_fraction`.
"""

import logging
from pathlib import Path
from typing import Any

from model import weights_file
from pipelines import params
from pipelines.evaluation import brats, evaluation_folder, views
from pipelines.params import Params
from pipelines.release import audit, record
from pipelines.scans import manifest, vocabulary
from pipelines.scans.manifest import TEST
from pipelines.serving import references
from pipelines.serving.conditions import Conditions
from pipelines.serving.held_out import HeldOut, segment_and_measure
from pipelines.work import project
from pipelines.work.memory import GIB
from pipelines.work.within_memory import stop_above
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)


def main() -> None:
    settings = params.load()
    conditions = Conditions.of_here(settings.evaluate.overlap, tuple(settings.evaluate.flips))
    with replacing(project.EVALUATION) as folder:
        predictions = folder / evaluation_folder.PREDICTIONS
        predictions.mkdir(parents=True)
        found = segment_and_measure(project.TRAINED, conditions, _memory_bytes(settings), predictions)
        for case_id, reason in found.left_out.items():
            log.warning("evaluate: left out %s: %s", case_id, reason)
        total = len(found.cases) + len(found.left_out)
        if not total:
            raise ValueError(f"{project.CASES / TEST} holds no labelled case; raise data.test_fraction or add scans")
        stop_above(found.left_out, total, settings.evaluate.max_left_out_fraction, "evaluate.max_left_out_fraction")
        words, rows = vocabulary.here(), {row.case_id: row for row in manifest.read()}
        told = {**_measured_on(project.TRAINED), "conditions": conditions.to_json(), "left_out": found.left_out}
        told["familiarity"] = _told_apart(folder / record.FAMILIARITY, found, settings, conditions)
        summary = evaluation_folder.summarised(found.scores, words, told, found.calibration)
        evaluation_folder.write(
            folder, found.scores, summary, words, evaluation_folder.facts_of(summary),
            lambda case: views.of_case(rows[case], {"prediction": predictions / f"{case}.nii.gz"}, found.scores),
        )  # fmt: skip
        brats.export(folder / "brats", predictions, found.scores, rows, words)
        look = {"test_set_sha256": manifest.test_set_sha256(), "cases": len(found.cases)}
        audit.append("evaluate", weights_sha256=told["weights_sha256"], **look)  # before anybody can read the figures
    _report(summary)


def _told_apart(file: Path, found: HeldOut, settings: Params, conditions: Conditions) -> dict[str, Any]:
    """Writes what tells unfamiliar scans from those of training; of how many, and how often it is wrong."""
    memory_bytes, most = _memory_bytes(settings), settings.evaluate.references
    known = references.of_training(project.TRAINED, conditions, memory_bytes, most, found.scores)
    known.write(file)
    flagged = references.flagged_of(known, found.cases)
    for case_id in flagged:
        log.warning("evaluate: held-out scan %s is unlike all training scans", case_id)
    return {"training_scans": known.counts(), "held_out": len(found.cases), "held_out_flagged": flagged}


def _memory_bytes(settings: Params) -> int:
    return int(settings.preprocess.memory_gib * GIB)


def _measured_on(trained: Path) -> dict[str, Any]:
    """What the figures are of."""
    return {
        "weights_sha256": weights_file.digest(trained),
        "identity": weights_file.read_card(trained).identity,
        "manifest_sha256": manifest.digest(),
        "test_set_sha256": manifest.test_set_sha256(),
    }


def _report(summary: dict[str, Any]) -> None:
    for source, structures in summary["by_source"].items():
        for structure, entry in structures.items():
            shown = "-" if entry["dice"] is None else f"{entry['dice']:.3f}"
            log.info("evaluate: %-16s %-24s Dice %s (%d cases)", source, structure, shown, entry["cases"])
