"""From a scan's files to its label map: what the command and MLflow's model share."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from model.network.config import MODALITIES
from pipelines.cases.preparation import Preprocessing, SourceRecord, prepare
from pipelines.intake import examination
from pipelines.params.quality_bounds import Quality
from pipelines.scans.volume import Geometry, Outline, Volume, VolumeError, read, same_grid
from pipelines.serving.segmenter import Segmenter

Seen = TypeVar("Seen", Volume, Outline)


def segment_files(
    segmenter: Segmenter, files: Mapping[str, Path], modality: str | None, bounds: Quality | None
) -> tuple[np.ndarray, Geometry, list[str]]:
    """Structure ids on the files' own grid, that grid, and what is to be noted of the scan.

    `files`: by modality; the name "" stands for the model's own, or for `modality`, numbers for one after the other of
    it. `bounds`: of the examination that
    training scans pass; None: only what makes a scan unusable is looked for. Raises VolumeError with what is refused.
    """
    image, modalities, source, geometry, notes = _prepared(segmenter.plan, files, modality, bounds)
    return segmenter.segment(image, modalities, source, geometry), geometry, notes


def _prepared(
    plan: Preprocessing, files: Mapping[str, Path], modality: str | None, bounds: Quality | None
) -> tuple[np.ndarray, list[str], str, Geometry, list[str]]:
    """A function of its own, so that the volumes are gone before the network starts."""
    scan = named({name: read(file) for name, file in files.items()}, plan, modality)
    first = next(iter(scan.values()))
    for name, volume in scan.items():
        if difference := same_grid(first, volume):
            raise VolumeError(f"{name}: {difference}")
    source = nearest_source(plan.sources, scan)
    found = examination.findings(scan, None, bounds)
    if refused := [finding.text for finding in found if finding.refused]:
        raise VolumeError("; ".join(refused))
    record = plan.sources[source]
    image, geometry = prepare(scan, record.spacing_mm, plan.ct, record.normalisation)
    return image, sorted(scan), source, geometry, [finding.text for finding in found]


def named(scan: Mapping[str, Seen], plan: Preprocessing, modality: str | None) -> dict[str, Seen]:
    """By modality, none of them "" any more. Raises VolumeError if it cannot be told, or is unknown."""
    numbers = sorted(int(name or 0) for name in scan if not name or name.isdigit())
    told = dict(zip(numbers, _told(len(numbers), plan, modality), strict=True))
    known = {told[int(name or 0)] if not name or name.isdigit() else name: each for name, each in scan.items()}
    if len(known) < len(scan):
        raise VolumeError(f"--modality {modality}: two of its channels show the same; each modality can be there once")
    unknown = sorted(set(known) - set(MODALITIES[1:]))
    if unknown:
        raise VolumeError(f"modality {unknown[0]!r} is unknown; use one of {', '.join(MODALITIES[1:])}")
    return known


def nearest_source(sources: dict[str, SourceRecord], scan: Mapping[str, Volume | Outline]) -> str:
    """The training source most like a scan: sharing most modalities, then nearest in spacing.

    It decides grid, patch and the structures looked for; what that source never annotated is not predicted.
    """
    spacing_mm = np.array(next(iter(scan.values())).spacing_mm)

    def distance(name: str) -> tuple[int, float, str]:
        record = sources[name]
        differing = len(set(scan) ^ set(record.modalities))
        return differing, float(np.abs(np.log(spacing_mm / np.array(record.native_spacing_mm))).sum()), name

    usable = [name for name, record in sources.items() if set(scan) & set(record.modalities)]
    if not usable:
        trained = sorted({modality for record in sources.values() for modality in record.modalities})
        raise VolumeError(f"modality {', '.join(scan)} was not trained; the model knows {', '.join(trained)}")
    return min(usable, key=distance)


def _told(count: int, plan: Preprocessing, modality: str | None) -> list[str]:
    """What so many images show, in their order, whose names do not say."""
    given = [name.strip() for name in modality.split(",")] if modality else []
    if count > 1 and len(given) != count:
        raise VolumeError(
            f"its names do not say what its {count} channels show; say it in their order, as in --modality T1,FLAIR, "
            "or put the dataset.json that names them beside"
        )
    return given[:count] if given else [_only_modality(plan)] * count


def _only_modality(plan: Preprocessing) -> str:
    known = sorted({name for record in plan.sources.values() for name in record.modalities})
    if len(known) > 1:
        raise VolumeError(f"the model knows {', '.join(known)}; say which this scan is with --modality")
    return known[0]
