"""Turn original layouts into one manifest (DVC stage `ingest`).

Reads   data/inventory.parquet, data/raw, structures.yaml, params.yaml: data, ingest, preprocess.memory_gib
Writes  data/manifest.parquet, reports/ingest/: index.html and a picture a source; data/phantom (empty unless it is
        among the sources)
Run     python -m pipelines ingest       # 208 hippocampus scans on 2 cores: about 3 s

Every scan is opened and checked. One that cannot be used stays in the manifest with the reason, and the rest goes on;
above `ingest.max_quarantined_fraction` the stage stops with the list. The layouts' own ids and the files' names end
here: patient, case and file go by pseudonyms in all that is written or told; `medseg data whereis CASE` finds them.
"""

import logging
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from pipelines import params
from pipelines.intake import claims, listing, sufficiency
from pipelines.intake.examination import examine
from pipelines.intake.finding import find, find_deidentified, find_phantoms
from pipelines.intake.splits import assign_splits
from pipelines.pages import contact_sheet
from pipelines.release import audit
from pipelines.scans import key, manifest, parquet, scan_files
from pipelines.scans.manifest import Row
from pipelines.scans.naming import Names
from pipelines.sources import phantom
from pipelines.work import project
from pipelines.work.wording import by_reason, listed
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)


def main() -> None:
    settings = params.load()
    with replacing(project.PHANTOM) as folder:
        folder.mkdir()
        if "phantom" in settings.data.sources:
            cohort = settings.ingest.phantom
            phantom.write(folder, cohort.cases_per_layout, cohort.size, cohort.seed)
    layouts = [name for name in settings.data.sources if name != "dicom"]  # DICOM has its own folder by now
    listed_files = _listed()
    unread = claims.unread(listed_files["path"].to_pylist(), project.RAW, settings.data.sources)
    pseudonyms = key.of_project()
    names = Names(pseudonyms, known_sources={*settings.data.labels, *settings.data.modality})
    rows = find(project.RAW, listed_files, layouts, names, settings.data.labels, settings.data.modality)
    rows += find_deidentified(project.DEIDENTIFIED, project.state_folder() / "digests.sqlite")
    if "phantom" in settings.data.sources:
        rows += find_phantoms(project.PHANTOM)
    _tell_unread(unread, settings.data.sources)
    if not rows:
        raise ValueError(
            f"{project.RAW} holds no scan in a layout of data.sources {list(settings.data.sources)}; "
            + (f"read those of {', '.join(unread.scans)} by {unread.remedy(())}, or " if unread.scans else "")
            + "link a folder with `medseg run --data DIR`, or fetch one with `medseg data fetch hippocampus`"
        )
    rows = assign_splits(examine(rows, settings.ingest.quality, settings.preprocess.memory_gib), settings.data)
    keyed = names.keyed or "dicom" in settings.data.sources
    manifest.write(project.MANIFEST, rows, pseudonyms.fingerprint() if keyed else "")
    contact_sheet.write(project.INGESTED, rows, settings.ingest.contact_sheet_cases, settings.preprocess.memory_gib)
    _report(rows)
    _stop_above(rows, settings.ingest.max_quarantined_fraction)
    for remark in sufficiency.check(rows):
        log.warning("ingest: %s", remark)
    scans = Counter(row.split or "refused" for row in rows)
    audit.append("ingest", manifest_sha256=manifest.digest(), test_set_sha256=manifest.test_set_sha256(), scans=scans)


def _tell_unread(unread: claims.Unread, requested: Sequence[str]) -> None:
    """Numbers only: this log leaves the machine, and names of files may name patients."""
    for layout, count in unread.scans.items():
        told = "ingest: %d scans of layout %s are NOT read, since data.sources does not name it; add it by %s"
        log.warning(told, count, layout, unread.remedy(requested))
    if unread.unclaimed:
        told = "ingest: %d NIfTI files are in no layout that is read; `medseg data check %s` names the first"
        log.warning(told, len(unread.unclaimed), project.RAW)
    if unread.packed:
        told = "ingest: %d packed files are NOT read; unpack or convert them; `medseg data check %s` names the first"
        log.warning(told, len(unread.packed), project.RAW)


def _listed() -> pa.Table:
    """The inventory with the paths that its names stand for on this machine."""
    listed = parquet.read(project.INVENTORY, listing.SCHEMA)
    paths = scan_files.paths(listed["path"].to_pylist())
    return listed.set_column(0, "path", pa.array(paths, pa.string()))


def _report(rows: list[Row]) -> None:
    counts = Counter((row.source, row.split or ("set aside" if row.set_aside else "quarantined")) for row in rows)
    for (source, split), count in sorted(counts.items()):
        log.info("ingest: %-16s %-12s %d", source, split, count)
    for told in by_reason((row.case_id, row.quarantined) for row in rows if row.quarantined and not row.set_aside):
        log.warning("ingest: quarantined %s", told)
    for told in by_reason((row.case_id, row.quarantined) for row in rows if row.set_aside):
        log.info("ingest: %s", told)
    noted = Counter(note.partition(":")[0] for row in manifest.usable(rows) for note in row.notes)
    for check, count in sorted(noted.items()):
        log.info("ingest: noted %-18s %d", check, count)


def _stop_above(rows: list[Row], bound: float) -> None:
    """Raise ValueError above the bound. What is set aside counts neither as refused nor as a scan."""
    counted = [row for row in rows if not row.set_aside]
    refused = [row for row in counted if row.quarantined]
    if len(refused) > bound * len(counted):
        reasons = listed((row.case_id, row.quarantined) for row in refused)
        raise ValueError(
            f"{len(refused)} of {len(counted)} scans are quarantined, above ingest.max_quarantined_fraction {bound:g}; "
            f"mend or remove them, or raise the bound: {reasons}"
        )
