"""New scans into the manifest: the stages up to `ingest`, each only if it is stale (Prefect flow).

Reads   data/raw, params.yaml
Writes  data/manifest.parquet and what lies before it; Prefect's artifact `new-scans`, a table
Run     deployment `ingest/new-scans`, every hour once `medseg schedule on` was said
Expect  nothing new: about 5 s; another run busy: it ends at once, as Skipped
"""

from collections import Counter
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from prefect.states import Completed, State

from flows import lock, outcomes
from flows.in_turn import InTurn
from pipelines.scans import manifest
from pipelines.scans.manifest import Row
from pipelines.work import project

LAST = "ingest"


@flow(name="ingest", persist_result=False)
def take_in() -> State[Any]:
    """What is new under data/raw: read, de-identified, examined, one row a scan."""
    try:
        with lock.held(doing="ingest") as held:
            before = _rows()
            if failed := InTurn(held).up_to(LAST):
                return failed
            return _told(before, _rows())
    except Exception as error:
        return outcomes.of(error)


def _rows() -> list[Row]:
    path = project.root() / project.MANIFEST
    return manifest.read(path) if path.is_file() else []


def _told(before: list[Row], after: list[Row]) -> State[Any]:
    """Counts alone: the names of new scans are nobody's business who reads Prefect's pages."""
    known = {_content(row) for row in before}
    new = [row for row in after if _content(row) not in known]
    if not new:
        return outcomes.skipped("no new scan")
    counts = Counter((row.source, _fate(row)) for row in new)
    table = [{"source": source, "scans": fate, "new": count} for (source, fate), count in sorted(counts.items())]
    create_table_artifact(table, key="new-scans", description=f"{len(new)} new scans of {len(after)}.")
    said = f"{len(new)} new scans, {sum(bool(row.quarantined) for row in new)} of them not usable"
    get_run_logger().info(said)
    return Completed(message=said)


def _content(row: Row) -> tuple[str, ...]:
    return (row.case_id, *sorted(file.content for file in row.files))


def _fate(row: Row) -> str:
    if row.quarantined:
        return "set aside" if row.set_aside else "quarantined"
    return f"{row.split}, {'labelled' if row.labels else 'no label'}"
