"""One manifest row, a scan with its label -> one case, as preprocessing writes it."""

import hashlib
from typing import Any

import numpy as np

from model.data.casefile import Case, CaseRecord
from pipelines.cases.preparation import Preprocessing, geometry_box, prepare
from pipelines.cases.resampling import resample_label
from pipelines.scans import labels, scan_files
from pipelines.scans.manifest import Row
from pipelines.scans.structure import IGNORED
from pipelines.scans.volume_geometry import Geometry


def prepare_case(row: Row, plan: Preprocessing, points: int) -> Case:
    """One manifest row -> one case, in memory; `points`: voxels indexed per structure."""
    source = plan.sources[row.source]
    image, geometry = prepare(
        {file.role: scan_files.read(row, file) for file in row.images}, source.spacing_mm, plan.ct, source.normalisation
    )
    image = image.astype(np.float16)  # as the file holds it; halves what waits for the label
    label = _prepared_label(row, geometry, image.shape[1:])
    record = CaseRecord(
        case_id=row.case_id,
        source=row.source,
        split=row.split,
        modalities=tuple(sorted(row.modalities)),
        annotated=tuple(row.annotated),
        spacing_mm=source.spacing_mm,
        geometry=geometry.to_json(),
        undecided=bool((label == IGNORED).any()),
    )
    return Case(record, image, label, _foreground(label, points, row.case_id))


def _prepared_label(row: Row, geometry: Geometry, shape: Any) -> np.ndarray:
    if not row.labels:
        return np.zeros(shape, np.uint8)
    return resample_label(labels.read(row)[geometry_box(geometry)], shape)


def _foreground(label: np.ndarray, points: int, case_id: str) -> np.ndarray:
    """Up to `points` voxels of each structure, (n, 4): id, d, h, w. The draw depends on the case alone."""
    rng = np.random.default_rng(int(hashlib.sha256(case_id.encode()).hexdigest()[:16], 16))
    found = []
    for value in (value for value in np.unique(label) if value not in (0, IGNORED)):
        voxels = np.flatnonzero(label == value)
        chosen = voxels[np.sort(rng.choice(len(voxels), min(points, len(voxels)), replace=False))]
        found.append(np.column_stack([np.full(len(chosen), value), *np.unravel_index(chosen, label.shape)]))
    return np.concatenate(found).astype(np.int32) if found else np.zeros((0, 4), np.int32)
