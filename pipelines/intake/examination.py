"""Open a scan and say what it is, or why it cannot be used."""

from dataclasses import replace
from functools import partial

import numpy as np

from pipelines import params
from pipelines.intake import quality
from pipelines.params import profiles
from pipelines.params.quality_bounds import Quality
from pipelines.scans import labels, nifti, scan_files, vocabulary
from pipelines.scans.contracts import contract_of
from pipelines.scans.manifest import File, Row
from pipelines.scans.naming import hashed
from pipelines.scans.structure import IGNORED
from pipelines.scans.vocabulary import Vocabulary
from pipelines.scans.volume import VolumeError, same_grid
from pipelines.scans.volume_geometry import Volume
from pipelines.sources import SEPARATE_GRIDS, layout_of
from pipelines.work import project, within_memory
from pipelines.work.memory import BYTE, FLOAT, GIB, HALF, free_bytes, with_overhead
from pipelines.work.within_memory import Load, LocalExecutor, Lost

EXAMINE_S, READ_S = 1e-3, 22e-9  # a scan, a voxel, on one core of a 2.5 GHz server


def examine(rows: list[Row], bounds: Quality | None = None, memory_gib: float | None = None) -> list[Row]:
    """Open every scan and fill in geometry and notes, or the reason why it cannot be used. In order, over all cores.

    `memory_gib`: of all that are open at a time (None: what is free); headers announce it before a voxel is inflated.
    Of usable scans, later duplicates are quarantined. `bounds` None: only what makes a scan unusable is looked for, not
    what a radiographer would remark.
    """
    found = dict(enumerate(rows))
    due = [load_of(number, row) for number, row in found.items() if not row.quarantined]
    vocabulary.here()  # read once, for all processes
    where = LocalExecutor(free_bytes() if memory_gib is None else int(memory_gib * GIB), distrustful=True)
    for (number, row), outcome in within_memory.each(partial(_of_second, bounds=bounds), due, where, "ingest"):
        if isinstance(outcome, Lost):
            outcome = replace(row, quarantined=f"{row.images[0].path}: {outcome.reason}")
        found[number] = outcome
    return _with_unique_ids(_without_duplicates(list(found.values())))


def load_of(number: int, row: Row) -> Load[tuple[int, Row]]:
    """What `examine_one` will need: all images are held and one label, the last is read, turned and checked beside.

    Of masks no two are held, but what is put together of them.
    """
    images, masks = ([_announced(file) for file in files] for files in (row.images, row.labels))
    largest = max((count for count, _ in masks), default=0)
    held = FLOAT * (sum(count for count, _ in images) + largest) + (4 * HALF * largest if len(masks) > 1 else 0)
    beside = max((count * (max(FLOAT, size) + 2 * BYTE) for count, size in (*images, *masks)), default=0)
    voxels = sum(count for count, _ in (*images, *masks))
    return Load((number, row), with_overhead(held + beside), EXAMINE_S + READ_S * voxels)


def _announced(file: File) -> tuple[int, int]:
    try:
        return nifti.announced_size(scan_files.volume_at(file.path))
    except VolumeError:  # said once it is read
        return 0, 0


def _of_second(numbered: tuple[int, Row], bounds: Quality | None) -> Row:
    return examine_one(numbered[1], bounds)


def _without_duplicates(rows: list[Row]) -> list[Row]:
    """Of usable rows with one case id, or the very same images, all but one are quarantined: the first that has a label
    is kept, else the first."""
    seen: dict[str, Row] = {}
    refused: dict[int, str] = {}
    for number in sorted((k for k, row in enumerate(rows) if not row.quarantined), key=lambda k: not rows[k].labels):
        row = rows[number]
        images = "+".join(sorted(file.content for file in row.images if file.sha256))
        if kept := seen.get(row.case_id) or seen.get(images):
            at = row.files[0].path
            refused[number] = f"{at}: duplicate case, the same as {kept.files[0].path}; keep one"
        else:
            seen |= {row.case_id: row, **({images: row} if images else {})}
    return [replace(row, quarantined=refused[k]) if k in refused else row for k, row in enumerate(rows)]


def _with_unique_ids(rows: list[Row]) -> list[Row]:
    """A usable row keeps its case id; others that have it, too, get one by their path."""
    taken = {row.case_id for row in rows if not row.quarantined}
    result = []
    for row in rows:
        if row.quarantined and row.case_id in taken:
            row = replace(row, case_id=f"{row.case_id}-{hashed('duplicate', row.files[0].path)}")
        taken.add(row.case_id)
        result.append(row)
    return result


def examine_one(row: Row, bounds: Quality | None = None) -> Row:
    try:
        volumes = {file.role: _read(row, file) for file in row.images}
        row, structures = _labelled(row, volumes)
        images = {file.role: volumes[file.role] for file in row.images}
        found = quality.findings(images, structures, bounds, labels.nominal_frame(row))
    except (VolumeError, MemoryError) as error:
        return replace(row, quarantined=str(error) or "does not fit in memory")
    reference = next(iter(images.values()))
    words = vocabulary.here()
    return replace(
        row,
        shape=list(reference.array.shape),
        spacing_mm=list(reference.spacing_mm),
        orientation=reference.orientation,
        quarantined="; ".join(f"{row.images[0].path}: {finding.text}" for finding in found if finding.refused),
        notes=row.notes + [finding.text for finding in found if not finding.refused],
        drawn=[] if structures is None else _drawn(row.annotated, np.unique(structures).tolist(), words),
    )


def _drawn(annotated: list[str], ids: list[int], words: Vocabulary) -> list[str]:
    """Those that the label has a voxel of; a structure drawn as part of a region counts for the region, too."""
    return [name for name in annotated if set(words.covered_ids(name)) & set(ids)]


def bounds_here() -> Quality:
    """The project's bounds of the quality checks; outside a project, those of the profile `own`."""
    return settings_here().ingest.quality


def settings_here() -> params.Params:
    """The project's parameters; outside a project, those of the profile `own`."""
    here = project.find()
    if here and (here / "params.yaml").is_file():
        return params.load(here / "params.yaml")
    return profiles.settings("own")


def _read(row: Row, file: File) -> Volume:
    try:
        return scan_files.read(row, file)
    except VolumeError as error:
        raise VolumeError(f"{file.path}: {error}") from None


def _labelled(row: Row, volumes: dict[str, Volume]) -> tuple[Row, np.ndarray | None]:
    """The row with the images that lie on the label's grid, or the first image's; and its structures, if it has any.

    Raises VolumeError if a file does not lie there. In a layout whose images need not be registered, images on other
    grids are left out with a note instead. Masks are read one at a time.
    """
    pile, drawn, reference = labels.Pile(), None, (row.images[0], volumes[row.images[0].role])
    for number, file in enumerate(row.labels):
        drawn = _read(row, file)
        if number == 0 and layout_of(row.source) in SEPARATE_GRIDS:
            reference = file, drawn
        elif difference := same_grid(drawn, reference[1]):
            raise VolumeError(f"{file.path}: {difference} of {reference[0].path}; register or re-export")
        pile.add(_structures(file, drawn.array))
    kept, notes = [], []
    for file in row.images:
        difference = same_grid(volumes[file.role], reference[1])
        if not difference:
            kept.append(file)
        elif layout_of(row.source) in SEPARATE_GRIDS:
            notes.append(f"channels: {file.role} lies on another grid and is left out; register it")
        else:
            raise VolumeError(f"{file.path}: {difference} of {reference[0].path}; register or re-export")
    if not kept:
        difference = same_grid(reference[1], volumes[row.images[0].role])
        raise VolumeError(f"{reference[0].path}: {difference} of {row.images[0].path}; register or re-export")
    if pile.disputed:
        notes.append(
            f"label: {pile.disputed} voxels lie in two masks, neither within the other; the later one has them"
        )
    row = replace(
        row, files=[*kept, *row.labels], modalities=sorted(file.role for file in kept), notes=row.notes + notes
    )
    if drawn is None:
        return row, None
    structures = pile.whole()
    if not ((structures > 0) & (structures != IGNORED)).any():
        raise VolumeError(f"{row.labels[0].path}: label is empty")
    return row, structures


def _structures(file: File, label: np.ndarray) -> np.ndarray:
    try:
        return contract_of(file.contract).to_structures(label)
    except ValueError as error:
        raise VolumeError(f"{file.path}: {error}") from None
