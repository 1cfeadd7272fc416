"""What one scan says to the plan: content, intensities, structures. Taken once a scan, remembered by content.

The memory of it, `.medseg/fingerprints.sqlite`, is keyed by the files' hashes and this code, so that one more scan
costs one scan. No result depends on it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from pipelines.cases.forecast import fingerprint_bytes, fingerprint_seconds
from pipelines.cases.preparation import bounding_box, content_of, moments
from pipelines.scans import labels, scan_files, vocabulary
from pipelines.scans.manifest import Row
from pipelines.scans.modalities import in_hu
from pipelines.scans.structure import IGNORED
from pipelines.work import code, project, within_memory
from pipelines.work.cache import Cache
from pipelines.work.within_memory import Executor, Load, Lost

CT_SAMPLES_PER_CASE = 20_000
CT_SAMPLES = 10_000_000  # of the whole cohort: percentiles to 0.1 HU, 40 MB
_PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True)
class ScanStatistics:
    """`content_shape`: voxels (D, H, W) of the box around content; `filled`: content's share of the whole scan.

    `intensity`: modality -> mean, deviation, 0.5, 50 and 99.5 percentile of the foreground (of the content, if
    unlabelled). `structures`: name -> voxels. `ct_samples`: of the labelled foreground, HU, float32.
    """

    content_shape: tuple[int, int, int]
    filled: float
    intensity: dict[str, tuple[float, ...]]
    structures: dict[str, int]
    ct_samples: np.ndarray


def take(rows: Sequence[Row], place: Callable[[], Executor]) -> tuple[dict[str, ScanStatistics], dict[str, str]]:
    """Statistics by case id, and the reasons of scans that gave none. `place` is asked where to work, if need be."""
    bound = max(1, CT_SAMPLES // max(1, sum(any(map(in_hu, row.modalities)) for row in rows)))
    refused: dict[str, str] = {}
    made_by = code.digest("pipelines.cases.fingerprint")
    keys = {row.case_id: _key(row, made_by) for row in rows}
    with Cache(project.state_folder() / "fingerprints.sqlite", "scan", ("record", "samples")) as memory:
        found = ((row.case_id, _recall(memory, keys[row.case_id])) for row in rows)
        known = {case_id: _trimmed(own, bound) for case_id, own in found if own is not None}
        unknown = [row for row in rows if row.case_id not in known]
        if not unknown:
            return known, refused
        loads = [Load(row, fingerprint_bytes(row), fingerprint_seconds(row)) for row in unknown]
        for row, outcome in within_memory.each(scan_statistics, loads, place(), "plan"):
            if isinstance(outcome, ScanStatistics):
                known[row.case_id] = _trimmed(outcome, bound)
                _remember(memory, keys[row.case_id], outcome)
            else:
                refused[row.case_id] = outcome.reason if isinstance(outcome, Lost) else outcome
    return known, refused


def scan_statistics(row: Row) -> ScanStatistics | str:
    """One scan's statistics, or the reason why it gives none."""
    try:
        scan = {file.role: scan_files.read(row, file) for file in row.images}
        content = content_of(scan)
        _, content_shape = bounding_box(content)
        structures: dict[str, int] = {}
        foreground = content
        if row.labels:
            label = labels.read(row)
            words = vocabulary.here()
            structures = {name: int((label == words[name].id).sum()) for name in row.annotated}
            foreground = (label > 0) & (label != IGNORED)
        values = {modality: volume.array[foreground] for modality, volume in scan.items()}
    except (ValueError, MemoryError) as error:
        return str(error) or "does not fit in memory"
    samples = [_thinned(inside) for modality, inside in values.items() if row.labels and in_hu(modality)]
    return ScanStatistics(
        content_shape=content_shape,
        filled=float(content.mean()),
        intensity={modality: _summary(inside) for modality, inside in values.items() if inside.size},
        structures=structures,
        ct_samples=np.concatenate([np.zeros(0, np.float32), *samples]),
    )


def _thinned(values: np.ndarray) -> np.ndarray:
    return values[:: max(1, values.size // CT_SAMPLES_PER_CASE)]


def _summary(values: np.ndarray) -> tuple[float, ...]:
    """Mean, deviation and percentiles, to 6 digits: more would not be the scan's."""
    mean, deviation = moments(values)
    found = [mean, deviation or 0.0, *np.percentile(values, _PERCENTILES)]
    return tuple(float(f"{value:.6g}") for value in found)


def _trimmed(statistics: ScanStatistics, bound: int) -> ScanStatistics:
    """With at most `bound` CT samples, spread evenly: 15,000 CTs must not fill the memory."""
    samples = statistics.ct_samples
    return replace(statistics, ct_samples=samples[:: max(1, math.ceil(samples.size / bound))].copy())


def _key(row: Row, made_by: str) -> str:
    files = [(file.role, in_hu(file.role), file.content, file.contract) for file in row.files]
    return hashlib.sha256(json.dumps([files, row.annotated, made_by]).encode()).hexdigest()


def _recall(memory: Cache, key: str) -> ScanStatistics | None:
    found = memory.get(key)
    if found is None:
        return None
    record = json.loads(found[0])
    intensity = {modality: tuple(values) for modality, values in record.pop("intensity").items()}
    shape = tuple(record.pop("content_shape"))
    samples = np.frombuffer(found[1], np.float32)
    return ScanStatistics(content_shape=shape, intensity=intensity, ct_samples=samples, **record)


def _remember(memory: Cache, key: str, statistics: ScanStatistics) -> None:
    record = {name: value for name, value in asdict(statistics).items() if name != "ct_samples"}
    samples = np.ascontiguousarray(statistics.ct_samples, dtype=np.float32).tobytes()
    memory.put(key, json.dumps(record), samples)
