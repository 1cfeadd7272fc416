"""Segment the held-out scans and measure (DVC stage `evaluate`).

Reads   models/train, data/cases/test, data/manifest.parquet, the held-out labels, params.yaml: evaluate,
        preprocess.memory_gib
Writes  reports/evaluate/: metrics.json, cases.csv, montage.png
Run     python -m pipelines evaluate       # 41 hippocampus scans on 2 cores: about 5 s

Every prediction is mapped back to the scan's own grid and compared with the label as the source wrote it there. A case
is scored on the structures its source annotated. A missed structure counts as 0; one that neither has says nothing, and
one that no scan of the cohort has is not scored.
A case that cannot be measured is left out, named in metrics.json, and bounded by `evaluate.max_left_out_fraction`.
"""

import csv
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model import weights_file
from model.data import casefile
from model.data.casefile import Case
from model.metrics import dice, mean
from pipelines import params
from pipelines.intake import sufficiency
from pipelines.pages import montage
from pipelines.scans import labels, manifest, vocabulary
from pipelines.scans.manifest import TEST, Row
from pipelines.scans.structure import IGNORED
from pipelines.scans.volume import Geometry, VolumeError, restore
from pipelines.serving.conditions import Conditions
from pipelines.serving.footprint import segmentation_bytes, segmentation_seconds
from pipelines.serving.segmenter import Segmented, Segmenter, cached_segmenter, scans_at_a_time
from pipelines.work import faults, project, within_memory
from pipelines.work.memory import GIB
from pipelines.work.within_memory import Load, LocalExecutor, Lost, stop_above
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


@dataclass(frozen=True)
class Measured:
    """What is said of one held-out case."""

    scores: list[Score]
    picture: montage.Comparison


def main() -> None:
    settings = params.load()
    conditions = Conditions.of_here(settings.evaluate.overlap)
    measured, left_out = measure(conditions, int(settings.preprocess.memory_gib * GIB))
    for case_id, reason in sorted(left_out.items()):
        log.warning("evaluate: left out %s: %s", case_id, reason)
    if not measured and not left_out:
        raise ValueError(f"{project.CASES / TEST} holds no labelled case; raise data.test_fraction or add scans")
    bound = settings.evaluate.max_left_out_fraction
    stop_above(left_out, len(measured) + len(left_out), bound, "evaluate.max_left_out_fraction")
    scores = [score for case in measured for score in case.scores]
    summary = {
        **summarise(scores),
        **_measured_on(project.TRAINED),
        "conditions": conditions.to_json(),
        "left_out": dict(sorted(left_out.items())),
    }
    with replacing(project.EVALUATION) as folder:
        folder.mkdir()
        write_json(folder / "metrics.json", summary)
        _write_csv(folder / "cases.csv", scores)
        montage.draw(folder / "montage.png", [case.picture for case in measured])
    _report(summary)


def _measured_on(trained: Path) -> dict[str, Any]:
    """What the figures are of."""
    return {"weights_sha256": weights_file.digest(trained), "identity": weights_file.read_card(trained).identity}


def measure(conditions: Conditions, memory_bytes: int) -> tuple[list[Measured], dict[str, str]]:
    """Every labelled held-out case, in order of its id, or why it cannot be measured."""
    rows = {row.case_id: row for row in manifest.read()}
    unknown = frozenset(sufficiency.never_drawn(list(rows.values())))
    loads, left_out, found = [], dict[str, str](), dict[str, Measured]()
    for path in sorted((project.CASES / TEST).glob("*.safetensors")):
        try:
            if (case := casefile.read(path)).record.annotated:
                loads.append(
                    Load(path, segmentation_bytes(case, project.TRAINED, conditions), segmentation_seconds(case))
                )
        except ValueError as error:
            left_out[path.stem] = str(error)
    work = partial(evaluate_case, rows=rows, weights=project.TRAINED, conditions=conditions, never_drawn=unknown)
    where = LocalExecutor(memory_bytes, slots=scans_at_a_time())
    for path, outcome in within_memory.each(work, loads, where, "evaluate"):
        if isinstance(outcome, Measured):
            found[path.stem] = outcome
        else:
            left_out[path.stem] = outcome.reason if isinstance(outcome, Lost) else outcome
    return [found[name] for name in sorted(found)], left_out


def evaluate_case(
    path: Path, rows: dict[str, Row], weights: Path, conditions: Conditions, never_drawn: frozenset[str] = frozenset()
) -> Measured | str:
    """Scores and a picture of one held-out, labelled case file, or the reason why there are none."""
    try:
        case = casefile.read(path)
        if case.record.split != TEST:
            raise ValueError(f"{path} is of split {case.record.split!r}, not {TEST}; rerun preprocess")
        if case.record.case_id not in rows:
            raise ValueError(f"{project.MANIFEST} does not know it; rerun preprocess")
        segmenter = cached_segmenter(weights, conditions)
        if case.record.source not in segmenter.card.patch_size:
            raise ValueError(f"the network was trained on no scan of its source, {case.record.source}")
        reference, segmented = segment_case(segmenter, case, rows[case.record.case_id])
    except Exception as error:
        if (reason := faults.told(error)) is None:
            raise
        return reason
    scores = list(score_case(case, reference, segmented.label, never_drawn))
    return Measured(scores, montage.compare(case, segmented.on_grid, mean([score.dice for score in scores])))


def _report(summary: dict[str, Any]) -> None:
    for source, structures in summary["by_source"].items():
        for structure, entry in structures.items():
            shown = "-" if entry["dice"] is None else f"{entry['dice']:.3f}"
            log.info("evaluate: %-16s %-24s Dice %s (%d cases)", source, structure, shown, entry["cases"])


def segment_case(segmenter: Segmenter, case: Case, row: Row) -> tuple[np.ndarray, Segmented]:
    """The reference as structure ids, on the file's own grid, and what the network says."""
    segmented = segmenter.segment(
        np.asarray(case.image), case.record.modalities, case.record.source, Geometry.from_json(case.record.geometry)
    )
    try:
        reference = restore(labels.read(row), Geometry.from_json(case.record.geometry).whole)
    except VolumeError:  # of the file, which it names
        raise
    except ValueError as error:
        raise ValueError(f"label: {error}") from None
    if reference.shape != segmented.label.shape:
        raise ValueError(f"its label has shape {reference.shape}, the scan {segmented.label.shape}; rerun ingest")
    return reference, segmented


def score_case(
    case: Case, reference: np.ndarray, predicted: np.ndarray, never_drawn: frozenset[str] = frozenset()
) -> Iterable[Score]:
    """Every annotated structure but those `never_drawn`, and every union whose parts were all annotated.

    Voxels that nobody decided on count in neither.
    """
    words, annotated = vocabulary.here(), case.record.annotated
    if (undecided := reference == IGNORED).any():
        predicted = np.where(undecided, 0, predicted)
    for name in (*annotated, *unions_of(annotated, words)):
        if name in never_drawn or (name not in annotated and set(words[name].parts) <= never_drawn):
            continue
        ids = words.covered_ids(name)
        one, other = np.isin(reference, ids), np.isin(predicted, ids)
        yield Score(case.record.case_id, case.record.source, name, dice(one, other), int(one.sum()), int(other.sum()))


def unions_of(annotated: Sequence[str], words: vocabulary.Vocabulary) -> list[str]:
    """Unions all of whose parts were annotated, and that were not annotated themselves."""
    return [
        name
        for name, each in words.items()
        if each.parts and name not in annotated and set(each.parts) <= set(annotated)
    ]


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
    words = vocabulary.here()
    by_structure = {name: mean([score.dice for score in scores if score.structure == name]) for name in names}
    return {
        "mean_dice": _or_none(
            mean([value for name, value in by_structure.items() if not _told_by_parts(name, names, words)])
        ),
        "dice": {name: _or_none(value) for name, value in by_structure.items()},
        "by_source": by_source,
        "cases": len({score.case_id for score in scores}),
    }


def _told_by_parts(name: str, scored: Sequence[str], words: vocabulary.Vocabulary) -> bool:
    """A union with structures within that are scored themselves: the mean would count these twice."""
    return any(words.atoms(other) < words.atoms(name) for other in scored)


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
