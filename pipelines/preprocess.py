"""Bring every usable scan onto a common grid and scale: one case file a case (DVC stage `preprocess`).

Reads   data/manifest.parquet, the scans it lists, params.yaml: preprocess
Writes  data/cases/{train,validation,test}/CASE_ID.safetensors, data/cases/preprocessing.json
Run     python -m pipelines preprocess       # 208 hippocampus scans on 2 cores: about 5 s

Reorient, crop to content, resample, normalise by modality. `prepare` is all a prediction needs, so training and
prediction cannot differ. The splits lie in folders of their own: training is never shown the held-out one.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model import casefile
from model.casefile import Case, CaseRecord
from pipelines import manifest, parallel, params, project
from pipelines.labels import contract_of
from pipelines.manifest import SPLITS, TRAIN, Row
from pipelines.output import replacing, write_json
from pipelines.volume import Geometry, Volume, read, resample, resample_label, resampled_shape

log = logging.getLogger(__name__)

CT_AIR_HU = -500.0  # between lung and soft tissue: the body's outline
CT_SAMPLES_PER_CASE = 20_000


@dataclass(frozen=True)
class CTScale:
    """Clip to [`low`, `high`] HU, then subtract `mean` and divide by `std`; of the training cohort's foreground."""

    low: float
    high: float
    mean: float
    std: float


@dataclass(frozen=True)
class SourceRecord:
    """What a model must know of a source it was trained on, to meet a new scan of its kind.

    `spacing_mm`: the network's grid. `native_spacing_mm`: median of the scans' own.
    """

    modalities: tuple[str, ...]
    annotated: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    native_spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """All that turning a scan into network input depends on; travels inside the weights file."""

    ct: CTScale
    sources: dict[str, SourceRecord]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> "Preprocessing":
        sources = {
            name: SourceRecord(**{key: tuple(value) for key, value in entry.items()})
            for name, entry in record["sources"].items()
        }
        return Preprocessing(CTScale(**record["ct"]), sources)


def main() -> None:
    settings = params.load().preprocess
    rows = manifest.usable(manifest.read())
    plan = Preprocessing(_ct_scale(rows, settings), _sources(rows, settings))
    refused: list[str] = []
    with replacing(project.CASES) as folder:
        for split in SPLITS:
            (folder / split).mkdir(parents=True)
        work = partial(_write_case, folder=folder, plan=plan, points=settings.foreground_points)
        refused = [reason for reason in parallel.each(work, rows, "preprocess") if reason]
        write_json(folder / "preprocessing.json", plan.to_json())
    for reason in refused:
        log.warning("preprocess: left out %s", reason)
    log.info("preprocess: %d cases written, %d left out", len(rows) - len(refused), len(refused))
    if len(refused) == len(rows):
        raise ValueError("preprocess: no scan could be used; the reasons are above")


def prepare(
    scan: dict[str, Volume], spacing_mm: tuple[float, float, float], ct: CTScale
) -> tuple[np.ndarray, Geometry]:
    """A scan's volumes by modality, all on one grid -> network input (C, D, H, W) float32, channels sorted by modality.

    The geometry leads from the input's crop back to the file's grid.
    """
    first = next(iter(scan.values()))
    content = np.zeros(first.array.shape, dtype=bool)
    for modality, volume in scan.items():
        content |= volume.array > CT_AIR_HU if modality == "CT" else volume.array != 0
    origin, shape = _bounding_box(content)
    geometry = Geometry.of(first).cropped(origin, shape)
    box = tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=True))
    target = resampled_shape(shape, first.spacing_mm, spacing_mm)
    channels = [_normalised(modality, scan[modality].array, ct)[box] for modality in sorted(scan)]
    return np.stack([resample(channel, target, order=3) for channel in channels]), geometry


def _bounding_box(content: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Origin and shape of the smallest box around True; the whole volume if there is none."""
    if not content.any():
        d, h, w = content.shape
        return (0, 0, 0), (d, h, w)
    spans = []
    for axis in range(3):
        line = np.flatnonzero(content.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append((int(line[0]), int(line[-1] - line[0] + 1)))
    (d, nd), (h, nh), (w, nw) = spans
    return (d, h, w), (nd, nh, nw)


def _normalised(modality: str, array: np.ndarray, ct: CTScale) -> np.ndarray:
    """CT: clipped and standardised by the cohort. Anything else: z-score of its own non-zero part. float32."""
    if modality == "CT":
        return (array.clip(ct.low, ct.high) - ct.mean) / ct.std
    inside = array[array != 0].astype(np.float64)
    if not inside.size:
        return array
    return ((array - inside.mean()) / max(float(inside.std()), 1e-6)).astype(np.float32)


def _write_case(row: Row, folder: Path, plan: Preprocessing, points: int) -> str:
    """Write one case file; the reason if it cannot be done, so that one bad scan does not stop the others."""
    try:
        case = preprocess_case(row, plan, points)
        casefile.write(folder / row.split / f"{row.case_id}.safetensors", case)
    except (ValueError, MemoryError) as error:
        return f"{row.case_id}: {error or 'does not fit in memory'}"
    return ""


def preprocess_case(row: Row, plan: Preprocessing, points: int) -> Case:
    """One manifest row -> one case, in memory."""
    spacing_mm = plan.sources[row.source].spacing_mm
    image, geometry = prepare({file.role: read(Path(file.path)) for file in row.images}, spacing_mm, plan.ct)
    label = _prepared_label(row, geometry, image.shape[1:])
    record = CaseRecord(
        case_id=row.case_id,
        source=row.source,
        split=row.split,
        modalities=tuple(sorted(row.modalities)),
        annotated=tuple(row.annotated),
        spacing_mm=spacing_mm,
        geometry=geometry.to_json(),
    )
    return Case(record, image, label, _foreground(label, points, row.case_id))


def _prepared_label(row: Row, geometry: Geometry, shape: Any) -> np.ndarray:
    if row.label is None:
        return np.zeros(shape, np.uint8)
    structures = contract_of(row.contract).to_structures(read(Path(row.label.path)).array)
    box = tuple(slice(o, o + n) for o, n in zip(geometry.origin, geometry.crop_shape, strict=True))
    return resample_label(structures[box], shape)


def _foreground(label: np.ndarray, points: int, case_id: str) -> np.ndarray:
    """Up to `points` voxels of each structure, (n, 4): id, d, h, w. The draw depends on the case alone."""
    rng = np.random.default_rng(int(hashlib.sha256(case_id.encode()).hexdigest()[:16], 16))
    found = []
    for value in np.unique(label[label > 0]):
        voxels = np.argwhere(label == value)
        chosen = voxels[np.sort(rng.choice(len(voxels), min(points, len(voxels)), replace=False))]
        found.append(np.column_stack([np.full(len(chosen), value), chosen]))
    return np.concatenate(found).astype(np.int32) if found else np.zeros((0, 4), np.int32)


def _sources(rows: list[Row], settings: params.Preprocess) -> dict[str, SourceRecord]:
    """One record a source, from its training scans (all its scans, if chance left none in training)."""
    records = {}
    for source in sorted({row.source for row in rows}):
        own = [row for row in rows if row.source == source]
        own = [row for row in own if row.split == TRAIN] or own
        d, h, w = np.median([row.spacing_mm for row in own], axis=0).tolist()
        records[source] = SourceRecord(
            modalities=tuple(sorted({modality for row in own for modality in row.modalities})),
            annotated=tuple(dict.fromkeys(name for row in own for name in row.annotated)),
            spacing_mm=params.by_source(settings.spacing_mm, source),
            native_spacing_mm=(d, h, w),
        )
    return records


def _ct_scale(rows: list[Row], settings: params.Preprocess) -> CTScale:
    """Percentiles, mean and deviation over the foreground of the labelled training CTs.

    Without any: a soft-tissue window, which no trained model depends on.
    """
    labelled = [row for row in rows if row.split == TRAIN and "CT" in row.modalities and row.label]
    drawn = [values for values in parallel.each(_ct_foreground, labelled, "CT statistics") if values.size]
    if not drawn:
        return CTScale(low=-1000.0, high=1000.0, mean=0.0, std=300.0)
    values = np.concatenate(drawn)
    low, high = (float(value) for value in np.percentile(values, settings.ct_percentiles))
    clipped = values.clip(low, high)
    return CTScale(low, high, float(clipped.mean()), max(float(clipped.std()), 1.0))


def _ct_foreground(row: Row) -> np.ndarray:
    assert row.label is not None
    image = next(read(Path(file.path)).array for file in row.images if file.role == "CT")
    inside = image[read(Path(row.label.path)).array > 0]
    step = max(1, inside.size // CT_SAMPLES_PER_CASE)
    return inside[::step].astype(np.float64)


def load_plan(path: Path = project.CASES / "preprocessing.json") -> Preprocessing:
    return Preprocessing.from_json(json.loads(path.read_text()))
