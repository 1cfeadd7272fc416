"""`medseg status`: which stages are fresh, what is registered, and whether the two belong together."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flows import dvc, lock
from pipelines.intake import raw_folder, used_structures
from pipelines.params import profiles
from pipelines.stages import CODE, STAGES
from pipelines.work import code, project


def collect() -> dict[str, Any]:
    """Keys: `stages` (name -> fresh | stale | running), `registered` (dict or None), `identity_consistent`, `profile`.

    `identity_consistent`: the registered version is what the data, code and parameters that lie here make.
    Works while a run is busy; the figures are then the run's own.
    """
    holder = lock.holder()
    with ThreadPoolExecutor() as pool:  # MLflow takes seconds to import, DVC and the raw files theirs
        registered = pool.submit(_registered_version)
        stages = _at_rest(pool) if holder is None or holder.get("doing") == "status" else _in_a_run(holder)
        version = registered.result()
    return {
        "stages": stages,
        "registered": None if version is None else _describe(version),
        "identity_consistent": version is not None and "stale" not in stages.values(),
        "profile": profiles.in_use(),
    }


def next_step(status: dict[str, Any]) -> str:
    """What a person would do now."""
    running = [name for name, state in status["stages"].items() if state == "running"]
    if running:
        return f"a run is at `{running[0]}`; wait, or look at it in the Prefect UI"
    if "stale" in status["stages"].values():
        return "`medseg run` brings the stale stages up to date"
    version = status["registered"]
    if version is None:
        return "`medseg register` makes a version of what lies here"
    if version["unsettled"]:
        return f"`medseg release --settle`: {version['unsettled'][0]}"
    number, standing = version["version"], version["standing"]
    return {
        "champion": "nothing; all is fresh, registered and released",
        "clinical-candidate": f"`medseg promote {number} --to champion --key KEY`, once it has proved itself",
        "requested": "an approver signs: `medseg release` shows what waits, `medseg approve` answers",
        "recalled": f"version {number} is recalled, for good; train another",
        "unverified": f"version {number} counts as not released: the ledger does not hold, see `medseg release`",
    }.get(standing, f"`medseg promote {number} --to clinical-candidate --key KEY`")


def _at_rest(pool: ThreadPoolExecutor) -> dict[str, str]:
    changed, of_other_code = pool.submit(raw_folder.changed), pool.submit(_of_other_code)
    declared, stale = dvc.declared(), dvc.stale()
    if changed.result():  # DVC learns of it only from the inventory, at the next run
        stale |= dvc.downstream(declared, {"inventory"})
    if used_structures.changed():
        written = {path.as_posix() for path in used_structures.WRITTEN}
        depends = {stage.name for stage in declared if written & set(stage.deps)}
        stale |= dvc.downstream(declared, depends)
    stale |= dvc.downstream(declared, of_other_code.result())
    return {stage.name: "stale" if stage.name in stale else "fresh" for stage in declared if stage.name != CODE}


def _of_other_code() -> set[str]:
    """Stages whose code is not what DVC last saw."""
    if not (project.root() / project.CODE).is_dir():
        return set()  # never run: DVC says so itself
    return code.changed(STAGES[1:])


def _in_a_run(holder: dict[str, Any]) -> dict[str, str]:
    """DVC answers nobody while a stage runs, so the run tells what it knows: the stages due, and the one it is at."""
    declared = dvc.declared()
    due = holder.get("due")
    if due is None:  # not asked yet: stages that were never run are due, of the others it is not known
        locked = dvc.locked()
        due = [stage.name for stage in declared if stage.name not in locked]
    return {
        stage.name: "running" if stage.name == holder.get("stage") else "stale" if stage.name in due else "fresh"
        for stage in declared
        if stage.name != CODE
    }


def _registered_version() -> Any | None:
    """The version of the record that lies here, with its aliases."""
    from pipelines.release import record, registry
    from pipelines.release.reading import Reader

    if not (project.root() / record.FILE).is_file():
        return None
    content, client = record.read(), Reader()
    version = registry.of_record(client, content)
    return None if version is None else client.get_model_version(content["name"], version.version)


def _describe(version: Any) -> dict[str, Any]:
    """`standing`: by the signed ledger; `unsettled`: where MLflow's aliases say something else."""
    from pipelines.release import moving, registry

    found = registry.find_by_record(version.name, version.tags["record_sha256"])
    mean_dice = version.tags.get("mean_dice")
    return {
        "name": version.name,
        "version": str(version.version),
        "aliases": sorted(version.aliases),
        "standing": found.standing.word,
        "unsettled": [] if found.standing == registry.UNVERIFIED else moving.unsettled(version.name),
        "mean_dice": None if mean_dice is None else float(mean_dice),
        "git_commit": version.tags.get("git_commit"),
        "run_id": version.run_id,
    }
