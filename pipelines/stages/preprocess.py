"""Bring every usable scan onto a common grid and scale: one case file a case (DVC stage `preprocess`).

Reads   data/manifest.parquet, data/plan.json, the scans, params.yaml: preprocess
Writes  data/cases/: {train,validation,test}/CASE_ID.safetensors, preprocessing.json, index.csv
Run     python -m pipelines preprocess       # 208 hippocampus scans on one core: about 2 s

Cases are made side by side as far as their predicted memory allows (`preprocess.memory_gib`), here or on a Dask
cluster. What lies there from the same scan, parameters and code is not made again: one new scan costs one scan, and a
run that was killed goes on. The splits lie in folders of their own: training is never shown the held-out one.
"""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines import params
from pipelines.cases import case_folder, preparation
from pipelines.cases.case_folder import CaseFolder, Entry
from pipelines.cases.case_making import prepare_case
from pipelines.cases.forecast import case_bytes, case_seconds
from pipelines.cases.preparation import Preprocessing
from pipelines.scans import manifest
from pipelines.scans.manifest import Row
from pipelines.work import project, within_memory
from pipelines.work.digests import remembered
from pipelines.work.memory import GIB
from pipelines.work.progress import duration
from pipelines.work.within_memory import Executor, Load, Lost
from pipelines.work.writing import write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DueCase:
    """One case to be made, with all a worker needs."""

    row: Row
    key: str
    plan: Preprocessing
    points: int


def main() -> None:
    with remembered(project.state_folder() / "digests.sqlite") as digests:
        bring_up_to_date(params.load().preprocess, CaseFolder(project.CASES, digests))


def bring_up_to_date(settings: params.Preprocess, folder: CaseFolder) -> None:
    """Bring the folder up to date. Raises ValueError if too many cases cannot be made; the folder is then as it was."""
    rows = manifest.usable(manifest.read())
    if not rows:
        raise ValueError(f"{project.MANIFEST} has no scan that can be used; `medseg data ls` shows the reasons")
    decided = preparation.load(project.PLAN)
    found, tasks = sort_out(rows, decided, settings.foreground_points, folder)
    made = []
    if tasks:
        made = make(tasks, folder.folder, within_memory.executor(settings.executor, int(settings.memory_gib * GIB)))
    left_out = [entry for entry in made if entry.left_out]
    for entry in left_out:
        log.warning("preprocess: left out %s: %s", entry.case_id, entry.left_out)
    log.info(
        "preprocess: %d cases made, %d as they were, %d left out", len(made) - len(left_out), len(found), len(left_out)
    )
    reasons = {entry.case_id: entry.left_out for entry in left_out}
    within_memory.stop_above(reasons, len(rows), settings.max_left_out_fraction, "preprocess.max_left_out_fraction")
    folder.commit([*found, *made])
    write_json(folder.folder / "preprocessing.json", decided.to_json())


def sort_out(
    rows: list[Row], plan: Preprocessing, points: int, folder: CaseFolder
) -> tuple[list[Entry], list[DueCase]]:
    """What need not be made again, and what is to be made."""
    keys = case_folder.keys(rows, plan, points)
    found, tasks = [], []
    for row in rows:
        if (entry := folder.finished(row, keys[row.case_id])) is not None:
            found.append(entry)
        else:
            tasks.append(DueCase(row, keys[row.case_id], plan, points))
    return found, tasks


def make(tasks: list[DueCase], folder: Path, where: Executor) -> list[Entry]:
    """Make the cases; one that cannot fit is named before anything starts, and the others go on."""
    loads, made = [], []
    for task in tasks:
        spacing_mm = task.plan.sources[task.row.source].spacing_mm
        need, bound = case_bytes(task.row, spacing_mm), max(machine.memory_bytes for machine in where.machines)
        if need <= bound:
            loads.append(Load(task, need, case_seconds(task.row, spacing_mm)))
            continue
        reason = (
            f"{within_memory.too_large(need, bound)}, or preprocess.spacing_mm of {task.row.source} "
            f"({' x '.join(map(str, task.row.shape))} voxels of {_mm(task.row.spacing_mm)} mm to {_mm(spacing_mm)} mm)"
        )
        log.warning("preprocess: %s %s", task.row.case_id, reason)
        made.append(Entry(task.row.case_id, task.row.split, left_out=reason))
    _announce(loads, where)
    for task, outcome in within_memory.each(partial(make_one, folder=folder), loads, where, "preprocess"):
        made.append(
            Entry(task.row.case_id, task.row.split, left_out=outcome.reason) if isinstance(outcome, Lost) else outcome
        )
    return made


def make_one(task: DueCase, folder: Path) -> Entry:
    """Make and write one case; the reason if it cannot be done, so that one bad scan does not stop the others."""
    try:
        return case_folder.finish(folder, prepare_case(task.row, task.plan, task.points), task.key)
    except (ValueError, MemoryError) as error:
        return Entry(task.row.case_id, task.row.split, left_out=str(error) or "does not fit in memory")


def _announce(loads: list[Load[DueCase]], where: Executor) -> None:
    if loads:
        slots = sum(machine.slots for machine in where.machines)
        longest = max(load.seconds for load in loads)
        seconds = max(longest, sum(load.seconds for load in loads) / slots)
        log.info(
            "preprocess: %d cases to make, the largest predicted at %.2f GiB, about %s",
            len(loads), max(load.memory_bytes for load in loads) / GIB, duration(seconds),
        )  # fmt: skip


def _mm(spacing_mm: list[float] | tuple[float, ...]) -> str:
    return " x ".join(f"{value:g}" for value in spacing_mm)
