"""From a scan's files to network input, or why it is refused. Imports no torch: exports carry it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.cases.preparation import Preprocessing, prepare
from pipelines.intake import quality
from pipelines.params.quality_bounds import Quality
from pipelines.scans.volume import VolumeError, read, same_grid
from pipelines.scans.volume_geometry import Geometry
from pipelines.serving.as_trained import meet


@dataclass(frozen=True)
class Prepared:
    """`image` (C, D, H, W), channels in the order of `modalities`, for the training `source` that the scan is most
    like. `geometry`: the way back to the files' grid. `notes`: what is to be told of the scan."""

    image: np.ndarray
    modalities: list[str]
    source: str
    geometry: Geometry
    notes: list[str]


def prepared(plan: Preprocessing, files: Mapping[str, Path], modality: str | None, bounds: Quality | None) -> Prepared:
    """`files`, `modality`: as `pipelines.serving.as_trained.meet` has them. `bounds`: of the examination that training
    scans pass; None: only what makes a scan unusable is looked for. Raises VolumeError with what is refused."""
    met = meet(plan, {name: read(file) for name, file in files.items()}, modality)
    first = next(iter(met.scan.values()))
    for name, volume in met.scan.items():
        if difference := same_grid(first, volume):
            raise VolumeError(f"{name}: {difference}")
    found = quality.findings(met.scan, None, bounds)
    if refused := [finding.text for finding in found if finding.refused]:
        raise VolumeError("; ".join(refused))
    record = plan.sources[met.source]
    image, geometry = prepare(met.scan, record.spacing_mm, plan.ct, record.normalisation)
    notes = [*met.notes, *(finding.text for finding in found)]
    return Prepared(image, sorted(met.scan), met.source, geometry, notes)
