"""From a scan's files to its label map: what the command and MLflow's model share."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipelines.cases.preparation import Preprocessing, prepare
from pipelines.intake import examination
from pipelines.params.quality_bounds import Quality
from pipelines.scans.volume import Geometry, VolumeError, read, same_grid
from pipelines.serving.as_trained import meet
from pipelines.serving.segmenter import Segmented, Segmenter


def segment_files(
    segmenter: Segmenter, files: Mapping[str, Path], modality: str | None, bounds: Quality | None
) -> tuple[Segmented, Geometry, list[str]]:
    """What the network says, on the files' own grid, that grid, and what is to be noted of the scan.

    `files`: by modality; the name "" stands for the model's own, or for `modality`, numbers for one after the other of
    it. `bounds`: of the examination that training scans pass; None: only what makes a scan unusable is looked for.
    Raises VolumeError with what is refused.
    """
    image, modalities, source, geometry, notes = _prepared(segmenter.plan, files, modality, bounds)
    return segmenter.segment(image, modalities, source, geometry), geometry, notes


def _prepared(
    plan: Preprocessing, files: Mapping[str, Path], modality: str | None, bounds: Quality | None
) -> tuple[np.ndarray, list[str], str, Geometry, list[str]]:
    """A function of its own, so that the volumes are gone before the network starts."""
    met = meet(plan, {name: read(file) for name, file in files.items()}, modality)
    first = next(iter(met.scan.values()))
    for name, volume in met.scan.items():
        if difference := same_grid(first, volume):
            raise VolumeError(f"{name}: {difference}")
    found = examination.findings(met.scan, None, bounds)
    if refused := [finding.text for finding in found if finding.refused]:
        raise VolumeError("; ".join(refused))
    record = plan.sources[met.source]
    image, geometry = prepare(met.scan, record.spacing_mm, plan.ct, record.normalisation)
    return image, sorted(met.scan), met.source, geometry, [*met.notes, *(finding.text for finding in found)]
