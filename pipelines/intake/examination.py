"""Open a scan and say what it is, or why it cannot be used."""

from dataclasses import replace
from functools import partial

import numpy as np

from pipelines.intake import quality
from pipelines.params.quality_bounds import Quality
from pipelines.scans import scan_files
from pipelines.scans.manifest import File, Row
from pipelines.scans.structures import contract_of
from pipelines.scans.volume import Volume, VolumeError, same_grid
from pipelines.sources import SEPARATE_GRIDS
from pipelines.work import parallel


def examine(rows: list[Row], bounds: Quality | None = None) -> list[Row]:
    """Open every scan and fill in geometry and notes, or the reason why it cannot be used. In order, over all cores.

    `bounds` None: only what makes a scan unusable is looked for, not what a radiographer would remark.
    """
    return list(parallel.each(partial(examine_one, bounds=bounds), rows, "ingest", lambda row: row.case_id))


def examine_one(row: Row, bounds: Quality | None = None) -> Row:
    if row.quarantined:
        return row
    try:
        volumes = {file.role: _read(row, file) for file in row.files}
        row = _on_one_grid(row, volumes)
        for file in row.images:
            if np.ptp(volumes[file.role].array) == 0:
                raise VolumeError(f"{file.path}: every voxel has the same value")
        structures = _structures(row, volumes["label"].array) if row.label else None
        images = {file.role: volumes[file.role] for file in row.images}
        findings = [] if bounds is None else quality.examine(images, structures, bounds, _nominal_frame(row))
    except (VolumeError, MemoryError) as error:
        return replace(row, quarantined=str(error) or "does not fit in memory")
    reference = next(iter(images.values()))
    return replace(
        row,
        shape=list(reference.array.shape),
        spacing_mm=list(reference.spacing_mm),
        orientation=reference.orientation,
        quarantined="; ".join(f"{row.images[0].path}: {finding.text}" for finding in findings if finding.refused),
        notes=row.notes + [finding.text for finding in findings if not finding.refused],
    )


def _read(row: Row, file: File) -> Volume:
    try:
        return scan_files.read(row, file)
    except VolumeError as error:
        raise VolumeError(f"{file.path}: {error}") from None


def _on_one_grid(row: Row, volumes: dict[str, Volume]) -> Row:
    """The row with the images that lie on the label's grid, or the first image's. Raises VolumeError if one does not.

    In a layout whose images need not be registered, those on other grids are left out with a note instead.
    """
    reference = row.label if row.label and row.source in SEPARATE_GRIDS else row.images[0]
    kept, notes = [], []
    for file in row.files:
        difference = same_grid(volumes[file.role], volumes[reference.role])
        if not difference:
            kept.append(file)
        elif row.source in SEPARATE_GRIDS and file is not reference:
            notes.append(f"channels: {file.role} lies on another grid and is left out; register it")
        else:
            raise VolumeError(f"{file.path}: {difference} of {reference.path}; register or re-export")
    if not (images := [file.role for file in kept if file.role != "label"]):
        difference = same_grid(volumes["label"], volumes[row.images[0].role])
        raise VolumeError(f"{reference.path}: {difference} of {row.images[0].path}; register or re-export")
    return replace(row, files=kept, modalities=sorted(images), notes=row.notes + notes)


def _nominal_frame(row: Row) -> bool:
    return bool(row.contract) and contract_of(row.contract).nominal_frame


def _structures(row: Row, label: np.ndarray) -> np.ndarray:
    assert row.label is not None
    try:
        structures = contract_of(row.contract).to_structures(label)
    except ValueError as error:
        raise VolumeError(f"{row.label.path}: {error}") from None
    if not structures.any():
        raise VolumeError(f"{row.label.path}: label is empty")
    return structures
