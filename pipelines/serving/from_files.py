"""From a scan's files to its label map: what the command and MLflow's model share."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipelines.params.quality_bounds import Quality
from pipelines.scans.volume import VolumeError
from pipelines.scans.volume_geometry import Geometry
from pipelines.serving.appearance import appearance
from pipelines.serving.familiarity import NETWORK, Familiarity, Judged
from pipelines.serving.preparing import prepared
from pipelines.serving.segmenter import Segmented, Segmenter


class FromFiles(NamedTuple):
    """What the network says, on the files' own grid, that grid, what is to be noted of the scan, and whether it is like
    those of training."""

    segmented: Segmented
    geometry: Geometry
    notes: list[str]
    judged: Judged


def segment_files(
    segmenter: Segmenter,
    files: Mapping[str, Path],
    modality: str | None,
    bounds: Quality | None,
    known: Familiarity | None = None,
    refuse: bool = False,
) -> FromFiles:
    """`files`: by modality; the name "" stands for the model's own, or for `modality`, numbers for one after the other
    of it. `bounds`: of the examination that training scans pass; None: only what makes a scan unusable is looked for.
    `known`: of training; `refuse`: a scan that is unlike it, if its looks suffice before the network runs.
    Raises VolumeError with what is refused.
    """
    scan = prepared(segmenter.plan, files, modality, bounds)
    known = known or Familiarity()
    look = appearance(scan.image, scan.modalities, scan.geometry)
    _check(known.judged(scan.source, look), refuse)
    segmented = segmenter.segment(scan.image, scan.modalities, scan.source, scan.geometry)
    judged = known.judged(scan.source, {**look, NETWORK: segmented.bottleneck})
    _check(judged, refuse)
    notes = [*scan.notes, *judged.warnings, *known.unsure(segmented.confidence)]
    return FromFiles(segmented, scan.geometry, notes, judged)


def _check(judged: Judged, refuse: bool) -> None:
    if refuse and judged.unfamiliar:
        raise VolumeError("; ".join(judged.warnings))
