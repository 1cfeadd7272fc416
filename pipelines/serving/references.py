"""What a network's own training scans look like to it, so that others can be told from them (stage `evaluate`).

    known = of_training(weights, conditions, memory_bytes, most=200)         a Familiarity
    flagged_of(known, cases)                                                 case ids of held-out scans it would flag

Bounds come from training scans alone, each against those of other patients; held-out scans measure how often a scan of
the same kind is flagged. The bounds on confidence are of held-out scans: on its training scans a network is too sure.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from model import weights_file
from model.data import casefile
from model.network.config import rows_of
from pipelines.evaluation.score import Score, structures_of
from pipelines.scans import manifest
from pipelines.scans.manifest import TRAIN
from pipelines.scans.volume_geometry import Geometry
from pipelines.serving import bottleneck, footprint
from pipelines.serving.appearance import appearance
from pipelines.serving.conditions import Conditions
from pipelines.serving.familiarity import FEWEST, NETWORK, Familiarity, Known, Look, Rows
from pipelines.serving.held_out import MeasuredCase
from pipelines.serving.segmenter import Segmenter, cached_segmenter, scans_at_a_time
from pipelines.work import faults, project, within_memory
from pipelines.work.within_memory import Load, LocalExecutor

log = logging.getLogger(__name__)

UNSURE = 0.02  # of held-out scans in which a structure was found lie below the bound on its confidence
FEWEST_FOR_CONFIDENCE = 20


@dataclass(frozen=True)
class Reference:
    """A training scan as the network sees it."""

    case_id: str
    source: str
    look: Look


def of_training(
    weights: Path, conditions: Conditions, memory_bytes: int, most: int, held_out: Sequence[Score] = ()
) -> Familiarity:
    """`most`: training scans looked at, of each source, spread over their pseudonyms. `held_out`: for confidence."""
    loads, taken = list[Load[Path]](), dict[str, int]()
    for path in sorted((project.CASES / TRAIN).glob("*.safetensors")):
        case = casefile.read(path)
        source = case.record.source
        if case.record.annotated and taken.setdefault(source, 0) < most:
            taken[source] += 1
            need = footprint.segmentation_bytes(case, weights, conditions)
            loads.append(Load(path, need, footprint.segmentation_seconds(case)))
    work = partial(reference_of, weights=weights, conditions=conditions)
    where = LocalExecutor(memory_bytes, slots=scans_at_a_time())
    found = []
    for path, outcome in within_memory.each(work, loads, where, "evaluate: training scans"):
        if isinstance(outcome, Reference):
            found.append(outcome)
        else:
            log.warning(
                "evaluate: training scan %s is not looked at: %s", path.stem, getattr(outcome, "reason", outcome)
            )
    patients = {row.case_id: row.patient for row in manifest.read()}
    return Familiarity(weights_file.digest(weights), known_of(found, patients), confidence_bounds(held_out))


def reference_of(path: Path, weights: Path, conditions: Conditions) -> Reference | str:
    """Of one training case file, or the reason why there is none."""
    try:
        case = casefile.read(path)
        record, image = case.record, np.asarray(case.image)
        segmenter = cached_segmenter(weights, conditions)
        if record.source not in segmenter.card.patch_size:
            raise ValueError(f"the network was trained on no scan of its source, {record.source}")
        look = appearance(image, record.modalities, Geometry.from_json(record.geometry))
        return Reference(record.case_id, record.source, {**look, NETWORK: _features(segmenter, image, record)})
    except Exception as error:
        if (reason := faults.told(error)) is None:
            raise
        return reason


def known_of(references: Sequence[Reference], patients: Mapping[str, str]) -> dict[str, dict[str, Known]]:
    """By source and group; without those of too few patients, if there are no others to tell how much these differ.
    In whatever order the references come."""
    ordered = sorted(references, key=lambda each: each.case_id)
    rows = {
        source: _rows([each for each in ordered if each.source == source], patients)
        for source in sorted({each.source for each in references})
    }
    found: dict[str, dict[str, Known]] = {}
    for source, groups in rows.items():
        for group, own in groups.items():
            lenders = [] if own.count >= FEWEST else list(_lenders(rows, source, group))
            if lenders or own.count >= FEWEST:
                found.setdefault(source, {})[group] = Known.of(group, own, lenders)
    return found


def _rows(references: Sequence[Reference], patients: Mapping[str, str]) -> dict[str, Rows]:
    """By group, of the scans that have it."""
    found = {}
    for group in dict.fromkeys(group for each in references for group in each.look):
        own = [each for each in references if group in each.look]
        whose = np.asarray([patients[each.case_id] for each in own])
        found[group] = Rows(np.asarray([each.look[group] for each in own], np.float64), whose)
    return found


def _lenders(rows: Mapping[str, Mapping[str, Rows]], source: str, group: str) -> Iterator[Rows]:
    """The same kind of group of other sources, whatever their modality."""
    for other, groups in rows.items():
        for name, each in groups.items():
            if other != source and name.partition(".")[0] == group.partition(".")[0] and each.count >= FEWEST:
                yield each


def flagged_of(known: Familiarity, cases: Sequence[MeasuredCase]) -> list[str]:
    """Case ids of the held-out scans that are said to be unfamiliar."""
    return [each.scores[0].case_id for each in cases if each.scores and known.judged(each.source, each.look).unfamiliar]


def confidence_bounds(scores: Sequence[Score]) -> dict[str, float]:
    """By structure, of the scans in which it was found; none of too few."""
    found = {}
    for name in structures_of(scores):
        sure = [s.confidence for s in scores if s.structure == name and s.confidence > 0]
        if len(sure) >= FEWEST_FOR_CONFIDENCE:
            found[name] = float(np.quantile(sure, UNSURE, method="lower"))
    return found


def _features(segmenter: Segmenter, image: np.ndarray, record: casefile.CaseRecord) -> np.ndarray:
    rows = rows_of(record.modalities, segmenter.network.config.modalities)
    return bottleneck.mean_of(
        segmenter.network,
        torch.from_numpy(np.asarray(image, np.float32)),
        torch.tensor(rows, device=segmenter.device),
        segmenter.plan.sources[record.source].spacing_mm,
        segmenter.card.patch_size[record.source],
        segmenter.overlap,
        segmenter.precision,
        segmenter.flips,
    )
