"""Turn original layouts into one manifest (DVC stage `ingest`).

Reads   data/inventory.parquet, data/raw, params.yaml: data, ingest
Writes  data/manifest.parquet, reports/ingest/: index.html and a picture a source; data/phantom (empty unless it is
        among the sources)
Run     python -m pipelines ingest       # 208 hippocampus scans on 2 cores: about 3 s

Every scan is opened and checked. One that cannot be used stays in the manifest with file and reason, and the rest goes
on; above `ingest.max_quarantined_fraction` the stage stops with the list. The layouts' own ids end here: a case goes by
a pseudonym from now on, and only the manifest knows the file.
"""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import params
from pipelines.pages import contact_sheet
from pipelines.params.quality_bounds import Quality
from pipelines.scans import manifest, quality
from pipelines.scans.manifest import TEST, TRAIN, File, Row
from pipelines.scans.structures import contract_of
from pipelines.scans.volume import Volume, VolumeError, read, same_grid
from pipelines.sources import SEPARATE_GRIDS, Scan, dicom, phantom, readers
from pipelines.stages import inventory
from pipelines.work import parallel, project
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)

SET_ASIDE = "set aside: "  # reasons of what is sound but no scan to learn from; not counted against the bound


def main() -> None:
    settings = params.load()
    with replacing(project.PHANTOM) as folder:
        folder.mkdir()
        if "phantom" in settings.data.sources:
            cohort = settings.ingest.phantom
            phantom.write(folder, cohort.cases_per_layout, cohort.size, cohort.seed)
    layouts = [name for name in settings.data.sources if name != "dicom"]  # DICOM has its own folder by now
    rows = find(project.RAW, pq.read_table(project.INVENTORY, schema=inventory.SCHEMA), layouts)
    rows += find_deidentified(project.DEIDENTIFIED, project.state() / "digests.sqlite")
    if "phantom" in settings.data.sources:
        rows += find_phantoms(project.PHANTOM)
    if not rows:
        raise ValueError(
            f"{project.RAW} holds no scan in a layout of data.sources {list(settings.data.sources)}; "
            "link a folder with `medseg run --data DIR`, or fetch one with `medseg data fetch hippocampus`"
        )
    rows = assign_splits(examine(rows, settings.ingest.quality), settings.data)
    manifest.write(project.MANIFEST, rows)
    contact_sheet.write(project.INGESTED, rows, settings.ingest.contact_sheet_cases)
    _report(rows)
    _stop_above(rows, settings.ingest.max_quarantined_fraction)


def check(folder: Path) -> list[dict[str, Any]]:
    """What `folder` holds in any known layout and what would be quarantined, and why; nothing is written."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    with tempfile.TemporaryDirectory() as memory:
        listed = inventory.take(folder, Path(memory) / "digests.sqlite")
    return [asdict(row) for row in examine(find(folder, listed, tuple(readers())), _bounds_here())]


def _bounds_here() -> Quality | None:
    """The project's bounds of the quality checks; outside a project, those this code was installed with, if any."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).parents[2]):
        if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
            return params.load(folder / "params.yaml").ingest.quality
    return None


def find(folder: Path, listed: pa.Table, sources: Iterable[str]) -> list[Row]:
    """One row a scan below `folder`, from names alone; sorted, later duplicates already quarantined."""
    files = {entry["path"]: entry for entry in listed.to_pylist()}
    found = {**readers(), "dicom": dicom.find}
    scans = [scan for name in sources if name in found for scan in found[name](list(files), folder)]
    claimed = {path for scan in scans for path in (*scan.images.values(), scan.label)}
    rows = [_row(scan, folder, files) for scan in scans]
    rows += [_unclaimed(entry, folder) for path, entry in files.items() if entry["problem"] and path not in claimed]
    return _refuse_duplicates(sorted(rows, key=lambda row: (row.source, [file.path for file in row.files])))


def find_phantoms(folder: Path) -> list[Row]:
    with tempfile.TemporaryDirectory() as memory:
        listed = inventory.take(folder, Path(memory) / "digests.sqlite")
    return [replace(row, source=f"phantom-{row.source}") for row in find(folder, listed, tuple(readers()))]


def find_deidentified(folder: Path, digests: Path) -> list[Row]:
    """What stage `deidentify` made of the DICOM series, if any. `digests`: the memory of known digests."""
    return find(folder, inventory.take(folder, digests), ("dicom",))


def _row(scan: Scan, folder: Path, files: dict[str, Any]) -> Row:
    roles = [*sorted(scan.images.items()), *([("label", scan.label)] if scan.label else [])]
    problem, listed = scan.problem, []
    for role, path in roles:
        entry = files.get(path, {"sha256": "", "bytes": 0, "problem": ""})
        listed.append(File(role, (folder / path).as_posix(), entry["sha256"], entry["bytes"]))
        if entry["problem"]:
            problem = problem or f"{path}: {entry['problem']}"
    known = contract_of(scan.contract).annotated if scan.label and scan.contract else ()
    annotated = list(scan.annotated or known)
    return Row(
        case_id=f"{scan.source}-{manifest.pseudonym(scan.source, scan.key)}",
        patient=manifest.pseudonym(scan.source, scan.patient),
        source=scan.source,
        split="",
        modalities=sorted(scan.images),
        files=listed,
        contract=scan.contract,
        annotated=annotated,
        quarantined=problem,
    )


def _unclaimed(entry: dict[str, Any], folder: Path) -> Row:
    """A file or folder that cannot be read, so that no layout could claim it: it must not vanish silently."""
    name = manifest.pseudonym("unread", entry["path"])
    file = File("unread", (folder / entry["path"]).as_posix())
    return Row(
        f"unread-{name}", name, "unread", "", [], [file], "", [], quarantined=f"{entry['path']}: {entry['problem']}"
    )


def _refuse_duplicates(rows: list[Row]) -> list[Row]:
    """Quarantine every later row with the case id, or the very images, of an earlier one."""
    seen: dict[str, Row] = {}
    result = []
    for row in rows:
        images = "+".join(sorted(file.sha256 for file in row.images if file.sha256))
        first = seen.get(row.case_id) or seen.get(images)
        if first is not None and not row.quarantined:
            at, earlier = row.files[0].path, first.files[0].path
            row = replace(row, quarantined=f"{at}: duplicate case, the same as {earlier}; keep one")
        if first is not None and first.case_id == row.case_id:
            row = replace(row, case_id=f"{row.case_id}-{manifest.pseudonym('duplicate', row.files[0].path)}")
        if first is None:
            seen.update({row.case_id: row, **({images: row} if images else {})})
        result.append(row)
    return result


def examine(rows: list[Row], bounds: Quality | None = None) -> list[Row]:
    """Open every scan and fill in geometry and notes, or the reason why it cannot be used. In order, over all cores.

    `bounds` None: only what makes a scan unusable is looked for, not what a radiographer would remark.
    """
    return list(parallel.each(partial(examine_one, bounds=bounds), rows, "ingest"))


def examine_one(row: Row, bounds: Quality | None = None) -> Row:
    if row.quarantined:
        return row
    try:
        volumes = {file.role: _read(file) for file in row.files}
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


def _read(file: File) -> Volume:
    try:
        return read(Path(file.path))
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


def assign_splits(rows: list[Row], settings: params.Data) -> list[Row]:
    """Give every usable row its split, by patient.

    A source so small that chance held nobody out gives its patient with the lowest draw, since a model that cannot be
    evaluated cannot be released. Only then may a split move when scans are added, and the log says so.
    """
    split = {
        row.patient: manifest.split_of(
            row.patient, settings.split_seed, settings.test_fraction, settings.validation_fraction
        )
        for row in rows
    }
    for source in sorted({row.source for row in manifest.usable(rows)}):
        patients = {row.patient for row in manifest.usable(rows) if row.source == source and row.annotated}
        by_draw = sorted(patients, key=lambda patient: manifest.split_draw(patient, settings.split_seed))
        chosen = {split[patient] for patient in patients}
        if len(patients) >= 2 and TEST not in chosen:
            split[by_draw[0]] = TEST
            log.warning("%s: too few patients for chance to hold one out; took the lowest draw", source)
        if len(patients) >= 2 and TRAIN not in {split[patient] for patient in patients}:
            split[by_draw[-1]] = TRAIN
            log.warning("%s: too few patients for chance to leave one to train on; took the highest draw", source)
    return [row if row.quarantined else replace(row, split=split[row.patient]) for row in rows]


def _report(rows: list[Row]) -> None:
    counts = Counter((row.source, row.split or "quarantined") for row in rows)
    for (source, split), count in sorted(counts.items()):
        log.info("ingest: %-16s %-12s %d", source, split, count)
    for row in rows:
        if row.quarantined:
            log.warning("ingest: quarantined %s: %s", row.case_id, row.quarantined)
    noted = Counter(note.partition(":")[0] for row in manifest.usable(rows) for note in row.notes)
    for check, count in sorted(noted.items()):
        log.info("ingest: noted %-18s %d", check, count)


def _stop_above(rows: list[Row], bound: float) -> None:
    refused = [row for row in rows if row.quarantined and not row.quarantined.startswith(SET_ASIDE)]
    if len(refused) > bound * len(rows):
        listed = "\n".join(f"  {row.case_id}: {row.quarantined}" for row in refused)
        raise ValueError(
            f"{len(refused)} of {len(rows)} scans are quarantined, above ingest.max_quarantined_fraction {bound:g}; "
            f"mend or remove them, or raise the bound:\n{listed}"
        )
