"""Segment scans with a registered version: a NIfTI file, or a folder of them.

Names tell the modality where several files make one scan (`NAME_flair.nii.gz` and `NAME_t1ce.nii.gz`); a single file is
of the model's own modality, or of the one given. The result lies on the input's own grid.
"""

import logging
from pathlib import Path

import numpy as np

from model.network.config import MODALITIES
from pipelines.cases.preparation import SourceRecord, prepare
from pipelines.release import registry
from pipelines.scans.structures import contract_of
from pipelines.scans.volume import Volume, VolumeError, read, same_grid, write_label
from pipelines.serving.conditions import Conditions
from pipelines.serving.segmenter import Segmenter
from pipelines.work.progress import track

log = logging.getLogger(__name__)

_SUFFIXES = (".nii.gz", ".nii")
_MODALITY_SUFFIXES = tuple(f"_{name.lower()}" for name in MODALITIES[1:])
_NOT_SCANS = ("_seg", "_gt", "segmentation")


def predict(
    source: Path, target: Path, model: str, labels_of: str | None = None, modality: str | None = None
) -> list[Path]:
    """Segment `source` (file or folder) into `target` (a file, or a folder); the written paths.

    `model`: `models:/NAME@ALIAS` or `models:/NAME/VERSION`. `labels_of`: write a source's own label values instead of
    the system's structure ids. A scan that cannot be used is reported and the others go on.
    Raises ValueError if nothing can be segmented, or any scan of a folder failed.
    """
    if labels_of is not None:
        contract_of(labels_of)  # refuses an unknown one before the network is loaded
    scans = find_scans(source)
    log.info("predict: %d scans, weights of %s", len(scans), model)
    version = registry.find(model)
    segmenter = Segmenter.load(version.weights(), Conditions.of_version(version.record["conditions"]))
    written, failed = [], []
    for name, files in track(scans.items(), len(scans), "predict"):
        path = target if source.is_file() and _is_nifti(target) else target / f"{name}.nii.gz"
        try:
            written.append(_predict_one(segmenter, files, path, labels_of, modality))
        except (VolumeError, MemoryError) as error:
            failed.append(f"{', '.join(str(file) for file in files.values())}: {error}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(scans)} scans could not be segmented: " + "; ".join(failed))
    return written


def _predict_one(
    segmenter: Segmenter, files: dict[str, Path], path: Path, labels_of: str | None, modality: str | None
) -> Path:
    scan = {name: read(file) for name, file in files.items()}
    first = next(iter(scan.values()))
    for name, volume in scan.items():
        if difference := same_grid(first, volume):
            raise VolumeError(f"{name}: {difference}")
    label = segment_scan(segmenter, scan, modality)
    if labels_of is not None:
        label = contract_of(labels_of).from_structures(label)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label(path, label, first.affine)
    return path


def segment_scan(segmenter: Segmenter, scan: dict[str, Volume], modality: str | None = None) -> np.ndarray:
    """Structure ids on the file's own grid. `scan`: volumes by modality; the name "" stands for the model's own."""
    if "" in scan:
        scan = {modality or _only_modality(segmenter): scan[""]}
    unknown = sorted(set(scan) - set(MODALITIES))
    if unknown:
        raise VolumeError(f"modality {unknown[0]!r} is unknown; use one of {', '.join(MODALITIES[1:])}")
    source = nearest_source(segmenter.plan.sources, scan)
    record = segmenter.plan.sources[source]
    image, geometry = prepare(scan, record.spacing_mm, segmenter.plan.ct, record.normalisation)
    return segmenter.segment(image, sorted(scan), source, geometry)


def nearest_source(sources: dict[str, SourceRecord], scan: dict[str, Volume]) -> str:
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


def find_scans(source: Path) -> dict[str, dict[str, Path]]:
    """Scans in a file or folder: name -> modality -> file. Modality "" where the name does not say.

    A name is the path below the folder, so that `a/imaging` and `b/imaging` stay two scans. Raises ValueError if there
    is none, or if two files claim one place (x.nii beside x.nii.gz).
    """
    if source.is_file():
        return {_stem(source): {"": source}}
    if not source.is_dir():
        raise ValueError(f"{source} is neither a file nor a folder")
    scans: dict[str, dict[str, Path]] = {}
    for path in sorted(path for path in source.rglob("*") if _is_nifti(path)):
        stem = _stem(path)
        if stem.lower().endswith(_NOT_SCANS):
            continue
        suffix = max((s for s in _MODALITY_SUFFIXES if stem.lower().endswith(s)), key=len, default="")
        name = (path.relative_to(source).parent / stem[: len(stem) - len(suffix)]).as_posix()
        taken = scans.setdefault(name, {}).setdefault(suffix[1:].upper(), path)
        if taken != path:
            raise ValueError(f"{taken} and {path.name} are the same scan twice; keep one")
    if not scans:
        raise ValueError(f"{source} holds no NIfTI scan (*.nii.gz, *.nii)")
    return scans


def _only_modality(segmenter: Segmenter) -> str:
    known = sorted({name for record in segmenter.plan.sources.values() for name in record.modalities})
    if len(known) > 1:
        raise VolumeError(f"the model knows {', '.join(known)}; say which this scan is with --modality")
    return known[0]


def _is_nifti(path: Path) -> bool:
    return path.name.endswith(_SUFFIXES)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")
