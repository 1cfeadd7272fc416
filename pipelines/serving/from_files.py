"""From a scan's files to its label map: what the command and MLflow's model share."""

from collections.abc import Mapping
from pathlib import Path

from pipelines.params.quality_bounds import Quality
from pipelines.scans.volume import Geometry
from pipelines.serving.preparing import prepared
from pipelines.serving.segmenter import Segmented, Segmenter


def segment_files(
    segmenter: Segmenter, files: Mapping[str, Path], modality: str | None, bounds: Quality | None
) -> tuple[Segmented, Geometry, list[str]]:
    """What the network says, on the files' own grid, that grid, and what is to be noted of the scan.

    `files`: by modality; the name "" stands for the model's own, or for `modality`, numbers for one after the other of
    it. `bounds`: of the examination that training scans pass; None: only what makes a scan unusable is looked for.
    Raises VolumeError with what is refused.
    """
    scan = prepared(segmenter.plan, files, modality, bounds)
    segmented = segmenter.segment(scan.image, scan.modalities, scan.source, scan.geometry)
    return segmented, scan.geometry, scan.notes
