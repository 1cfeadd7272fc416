"""Decide from the training cohort's fingerprint how scans are prepared (DVC stage `plan`).

Reads   data/manifest.parquet, the training scans, params.yaml: plan, and what preprocess and train state themselves
Writes  data/plan.json: every decision with its reason, the statistics behind it
Run     python -m pipelines plan       # 158 hippocampus scans on one core: about 2 s; `medseg data plan` shows it

Only training scans are looked at. What params.yaml states overrides the plan, and the file says so. Statistics are
remembered by content (pipelines/cases/fingerprint.py): one more scan costs one scan.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import params
from pipelines.cases import decisions, fingerprint
from pipelines.cases.decisions import Decision, decide
from pipelines.cases.fingerprint import ScanStatistics
from pipelines.cases.preparation import CTScale, Preprocessing, SourceRecord
from pipelines.scans import manifest
from pipelines.scans.manifest import TRAIN, Row
from pipelines.scans.modalities import HU, NO_UNIT, in_hu
from pipelines.scans.source_tables import by_source
from pipelines.work import project, within_memory
from pipelines.work.memory import GIB
from pipelines.work.writing import write_json

log = logging.getLogger(__name__)


def main() -> None:
    settings = params.load()
    rows = manifest.usable(manifest.read())
    place = partial(within_memory.executor, settings.preprocess.executor, int(settings.preprocess.memory_gib * GIB))
    statistics, refused = fingerprint.take(_looked_at(rows), place)
    for case_id, reason in refused.items():
        log.warning("plan: %s gives no statistics: %s", case_id, reason)
    made = make(rows, statistics, settings)
    write_json(project.PLAN, made)
    for source, entry in made["decisions"].items():
        spacing, patch, normalisation = (_shown(entry[name]) for name in ("spacing_mm", "patch_size", "normalisation"))
        log.info("plan: %-16s %s mm, patch %s, %s", source, spacing, patch, normalisation)


def make(rows: list[Row], statistics: dict[str, ScanStatistics], settings: params.Params) -> dict[str, Any]:
    """The content of plan.json. `ct` and `sources` are what preprocess applies; the rest says why."""
    planned = {source: _decisions(source, own, statistics, settings) for source, own in _by_source(rows).items()}
    scale = _ct_scale(rows, statistics, settings)
    sources = {
        source: SourceRecord(
            modalities=tuple(sorted({modality for row in own for modality in row.modalities})),
            annotated=tuple(dict.fromkeys(name for row in own for name in row.annotated)),
            spacing_mm=planned[source]["spacing_mm"].value,
            native_spacing_mm=_three(np.median([row.spacing_mm for row in own], axis=0)),
            normalisation=planned[source]["normalisation"].value,
            patch_size=planned[source]["patch_size"].value,
            always=tuple(sorted(set[str].intersection(*(set(row.modalities) for row in own)))),
        )
        for source, own in _by_source(rows).items()
    }
    shown = {name for row in rows for name in row.modalities}
    units = {name: HU if in_hu(name) else NO_UNIT for name in sorted(shown)}
    return {
        **Preprocessing(scale.value, sources, units).to_json(),
        "decisions": {source: {name: asdict(each) for name, each in own.items()} for source, own in planned.items()},
        "ct_scale_hu": asdict(scale),
        "fingerprint": {source: _cohort(own, statistics) for source, own in _by_source(rows).items()},
    }


def read(path: Path = project.PLAN) -> dict[str, Any]:
    """All of plan.json. Raises ValueError if there is no plan yet."""
    if not path.is_file():
        raise ValueError(f"{path}: no plan yet; `medseg run` or `dvc repro plan` writes it")
    return dict(json.loads(path.read_text()))


def _looked_at(rows: list[Row]) -> list[Row]:
    return [row for own in _by_source(rows).values() for row in own if row.split == TRAIN]


def _by_source(rows: list[Row]) -> dict[str, list[Row]]:
    """Each source's training scans; all its scans, for what their headers say, if chance left none in training."""
    found = {}
    for source in sorted({row.source for row in rows}):
        own = [row for row in rows if row.source == source]
        found[source] = [row for row in own if row.split == TRAIN] or own
    return found


def _decisions(
    source: str, rows: list[Row], statistics: dict[str, ScanStatistics], settings: params.Params
) -> dict[str, Decision]:
    """Spacing, patch and normalisation of one source; the patch follows from the spacing that holds."""
    shapes = [_content_shape(row, statistics) for row in rows]
    spacings = [row.spacing_mm for row in rows]
    stated = by_source(settings.preprocess.spacing_mm, source)
    spacing = decide(*decisions.spacing(spacings, shapes, settings.plan.anisotropy), stated, "preprocess.spacing_mm")
    at_target = np.median(np.array(shapes) * np.array(spacings) / np.array(spacing.value), axis=0).tolist()
    stated = by_source(settings.train.patch_size, source)
    patch = decide(*decisions.patch(at_target, spacing.value, settings.plan.patch_voxels), stated, "train.patch_size")
    modalities = sorted({modality for row in rows for modality in row.modalities})
    named = by_source(settings.preprocess.normalisation, source)
    normalisation = decide(*decisions.normalisation(modalities), named, "preprocess.normalisation")
    return {"spacing_mm": spacing, "patch_size": patch, "normalisation": normalisation}


def _ct_scale(rows: list[Row], statistics: dict[str, ScanStatistics], settings: params.Params) -> Decision:
    stated = settings.preprocess.ct_scale_hu
    samples = [statistics[row.case_id].ct_samples for row in rows if row.case_id in statistics]
    planned, reason = decisions.ct_scale(samples, settings.plan.ct_percentiles)
    return decide(planned, reason, None if stated is None else CTScale(*stated), "preprocess.ct_scale_hu")


def _content_shape(row: Row, statistics: dict[str, ScanStatistics]) -> Sequence[int]:
    return statistics[row.case_id].content_shape if row.case_id in statistics else row.shape


def _cohort(rows: list[Row], statistics: dict[str, ScanStatistics]) -> dict[str, Any]:
    """A source's statistics over its scans: 10, 50 and 90 percentile of each figure."""
    found = [statistics[row.case_id] for row in rows if row.case_id in statistics]
    voxel_ml = {row.case_id: float(np.prod(row.spacing_mm)) / 1000 for row in rows}
    modalities = sorted({modality for own in found for modality in own.intensity})
    return {
        "scans": len(rows),
        "spacing_mm": [_spread(axis) for axis in np.array([row.spacing_mm for row in rows]).T],
        "content_shape": [_spread(axis) for axis in np.array([_content_shape(row, statistics) for row in rows]).T],
        "content_share": _spread([own.filled for own in found]),
        "intensity": {
            modality: {
                name: _spread([own.intensity[modality][place] for own in found if modality in own.intensity])
                for place, name in enumerate(("mean", "deviation", "low", "median", "high"))
            }
            for modality in modalities
        },
        "structures": _structures(rows, statistics, voxel_ml),
    }


def _structures(
    rows: list[Row], statistics: dict[str, ScanStatistics], voxel_ml: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Structure -> in how many scans it was looked for and found, and its volume there in ml."""
    volumes: dict[str, list[float]] = {}
    for row in rows:
        if row.case_id in statistics:
            for name, voxels in statistics[row.case_id].structures.items():
                volumes.setdefault(name, []).append(voxels * voxel_ml[row.case_id])
    return {
        name: {"annotated": len(own), "found": sum(x > 0 for x in own), "volume_ml": _spread([x for x in own if x > 0])}
        for name, own in volumes.items()
    }


def _spread(values: Any) -> list[float]:
    """10, 50, 90 percentile, to 4 digits; empty of nothing."""
    return [float(f"{value:.4g}") for value in np.percentile(values, (10, 50, 90))] if len(values) else []


def _shown(decision: dict[str, Any]) -> str:
    value = decision["value"]
    shown = " x ".join(f"{item:g}" for item in value) if isinstance(value, (list, tuple)) else str(value)
    return f"{shown}{' (stated)' if decision['stated'] else ''}"


def _three(values: Any) -> tuple[float, float, float]:
    d, h, w = (float(value) for value in values)
    return d, h, w
