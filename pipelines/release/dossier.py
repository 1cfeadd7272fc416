"""What is kept of a version, so that it can be judged, traced and proved years later: its dossier.

    .medseg/versions/RECORD_SHA256/
        record.json       what the version is (pipelines/release/record.py); its sha256 names the folder
        evaluation/       reports/evaluate as it was: figures, report, every label map
        lineage/          the manifest and inventory of its scans, parameters, dvc.lock, plan, the plan of its release,
                          and origin.json: commit, authors, program, processor
        contents.json     sha256 of every file above

Made when a version is registered, never changed after. On a server it is an artifact of the version's run, fetched from
there once a machine, as weights are (pipelines/release/store.py).
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.release import record, store, tracking
from pipelines.scans import manifest
from pipelines.work import project
from pipelines.work.digests import sha256_of
from pipelines.work.writing import replacing, write_json

log = logging.getLogger(__name__)

RECORD, CONTENTS, ORIGIN = "record.json", "contents.json", "lineage/origin.json"
EVALUATION, LINEAGE = "evaluation", "lineage"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEDY = "; bring it back from a copy of the project"
MANIFEST, PARAMS, LOCK = f"{LINEAGE}/manifest.parquet", f"{LINEAGE}/params.yaml", f"{LINEAGE}/dvc.lock"
INVENTORY, RELEASE_PLAN = f"{LINEAGE}/inventory.parquet", f"{LINEAGE}/release-plan.yaml"
# Name in the dossier -> in the project. What is edited in place is copied; a project may lack all but the manifest.
FILES = {
    MANIFEST: project.MANIFEST,
    INVENTORY: project.INVENTORY,
    PARAMS: Path("params.yaml"),
    LOCK: Path("dvc.lock"),
    f"{LINEAGE}/plan.json": project.PLAN,
    f"{LINEAGE}/structures.json": project.STRUCTURES,
    f"{LINEAGE}/modalities.json": project.MODALITIES,
    RELEASE_PLAN: Path("release/plan.yaml"),
}


def place(record_sha256: str) -> Path:
    return project.state_folder() / "versions" / record_sha256


def keep(content: Mapping[str, Any], origin: Mapping[str, str] | None = None) -> Path:
    """Take in what the project holds of this record, unless it is here. `origin`: commit, program and processor of the
    training, as `run_identity.origin` names them, where they are not those of here and now.

    Raises ValueError if evaluation or manifest in the project are not the record's.
    """
    folder = place(record.digest(content))
    if not folder.is_dir():
        with replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / RECORD).write_text(record.text(content))
            _gather(temporary, origin)
            write_json(temporary / CONTENTS, _digests(temporary))
            _refuse_others(temporary, content)
    return verified(folder, folder.name)


def find(record_sha256: str, run_id: str, below: str = "") -> Path:
    """The dossier's folder, checked to the byte; only what lies `below` a folder of it, where one is named.

    `run_id`: the MLflow run that has it, on a server. Raises ValueError, naming the file, if it is not what it was.
    """
    if not _SHA256.fullmatch(record_sha256):
        raise ValueError(f"{record_sha256[:20]!r} is no sha256 of a version's record; `medseg status` shows versions")
    folder = place(record_sha256)
    if not folder.is_dir():
        if tracking.is_embedded():
            raise ValueError(
                f"{folder}, what was kept of this version, is missing; bring it back from a copy of the project, or "
                "register the version's files again (`dvc checkout`, `medseg register`)"
            )
        _fetch(record_sha256, run_id)
    return verified(folder, record_sha256, below)


def evaluation_file(content: Mapping[str, Any], run_id: str, name: str) -> Path | None:
    """One file of a version's evaluation, its sha256 that of the record; None if the record names none such.

    On a server it is fetched alone where the dossier is not here: label maps may be many gigabytes.
    Raises ValueError if it is not to be had or not the record's.
    """
    if (sha256 := content.get("evaluation_files", {}).get(name)) is None:
        return None
    record_sha256, where = record.digest(content), f"{EVALUATION}/{name}"
    here = place(record_sha256) / where
    file = here if here.parent.is_dir() or tracking.is_embedded() else project.state_folder() / "evaluation" / sha256
    if file != here and not file.is_file():
        with replacing(file) as temporary, TemporaryDirectory(dir=project.state_folder()) as scratch:
            _download(run_id, f"{_artifact(record_sha256)}/{where}", Path(scratch)).rename(temporary)
    if not file.is_file():
        raise ValueError(f"{file} is missing{_REMEDY}")
    if sha256_of(file) != sha256:
        raise ValueError(f"{file} is not what the version's record was made of{_REMEDY}")
    return file


def kept() -> list[Path]:
    """The folders of all that lie here, unchecked."""
    return sorted(path for path in place("").glob("*") if _SHA256.fullmatch(path.name))


def note(name: str, version: int | str, record_sha256: str) -> None:
    """Which record a version's number stands for, so that it is found without MLflow, which takes seconds."""
    with replacing(_numbers() / name / str(version)) as temporary:
        temporary.symlink_to(record_sha256)


def known(name: str, version: str) -> str | None:
    """The record of a version that was noted here before."""
    link = _numbers() / name / version
    return link.readlink().name if version.isdigit() and link.is_symlink() else None


def _numbers() -> Path:
    """One folder a registry: each begins to count at 1."""
    uri = "" if tracking.is_embedded() else tracking.tracking_uri()
    return project.state_folder() / "numbers" / hashlib.sha256(uri.encode()).hexdigest()[:12]


def digest(folder: Path) -> str:
    """sha256 of contents.json, which vouches for every file of the dossier."""
    return sha256_of(folder / CONTENTS)


def publish(client: Any, run_id: str, record_sha256: str) -> None:
    """Give the dossier to the server's artifact store, once."""
    where = _artifact(record_sha256)
    if tracking.is_embedded() or any(Path(each.path).name == CONTENTS for each in client.list_artifacts(run_id, where)):
        return
    folder = place(record_sha256)
    for part in sorted(folder.iterdir(), key=lambda path: path.name == CONTENTS):  # last: where it is, all is
        if part.is_dir():
            client.log_artifacts(run_id, str(part), f"{where}/{part.name}")
        else:
            client.log_artifact(run_id, str(part), where)


def verified(folder: Path, record_sha256: str, below: str = "") -> Path:
    """`folder`, if it is the dossier of this record and its files are what they were.

    Raises ValueError naming the first file that is not.
    """
    try:
        told = dict(json.loads((folder / CONTENTS).read_text()))
        if sha256_of(folder / RECORD) != record_sha256:
            raise ValueError(f"{folder / RECORD} is not the record {record_sha256[:12]}... any more{_REMEDY}")
    except (OSError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} is no dossier of a version ({error}){_REMEDY}") from None
    _refuse_changed(folder, told, f"{below}/" if below else "")
    return folder


def _refuse_changed(folder: Path, told: Mapping[str, str], below: str) -> None:
    found = _files(folder)
    for name in sorted(told.keys() | found):
        if name not in told:
            raise ValueError(f"{folder / name} is not of this version: it was added later; remove it")
        if name not in found:
            raise ValueError(f"{folder / name} is missing{_REMEDY}")
        if name.startswith(below) and sha256_of(folder / name) != told[name]:
            raise ValueError(f"{folder / name} is not what it was when the version was registered{_REMEDY}")


def _gather(folder: Path, origin: Mapping[str, str] | None) -> None:
    from pipelines.release import run_identity  # slow, and who only reads dossiers needs none

    origin = origin or run_identity.origin()
    evaluation = project.root() / project.EVALUATION
    for file in sorted(path for path in evaluation.rglob("*") if path.is_file()):
        target = folder / EVALUATION / file.relative_to(evaluation)
        target.parent.mkdir(parents=True, exist_ok=True)
        store.link(file, target)
    (folder / LINEAGE).mkdir()
    for name, path in FILES.items():
        if (project.root() / path).is_file():
            shutil.copyfile(project.root() / path, folder / name)
    people = run_identity.people(origin["git_commit"])
    write_json(folder / ORIGIN, {**origin, "authors": sorted(set(people.values()) - {""})})


def _refuse_others(folder: Path, content: Mapping[str, Any]) -> None:
    """What lies in the project may be of a later run than the record."""
    if record.evaluation_files(folder / EVALUATION) != content["evaluation_files"]:
        wrong = project.EVALUATION
    elif manifest.digest(folder / MANIFEST) != content["manifest_sha256"]:
        wrong = project.MANIFEST
    else:
        return
    raise ValueError(
        f"{wrong} is not what {record.FILE} was made of; `medseg run` brings them together, `dvc checkout` brings back "
        "those of dvc.lock"
    )


def _fetch(record_sha256: str, run_id: str) -> None:
    log.info("dossier %s: fetching it from MLflow, once", record_sha256[:12])
    where = _artifact(record_sha256)
    with replacing(place(record_sha256)) as temporary:
        temporary.mkdir()
        _download(run_id, where, temporary)
        for each in (temporary / where).iterdir():
            each.rename(temporary / each.name)
        (temporary / where).rmdir()
        verified(temporary, record_sha256)


def _download(run_id: str, where: str, folder: Path) -> Path:
    """Below `folder`, under its own path. Raises ValueError if the run has none."""
    mlflow = tracking.configure()
    try:
        mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=where, dst_path=str(folder))
    except mlflow.exceptions.MlflowException as error:
        raise ValueError(f"MLflow's run {run_id} has no {where}: {error.message}{_REMEDY}") from None
    return folder / where


def _artifact(record_sha256: str) -> str:
    return f"version-{record_sha256}"  # a run's weights may be evaluated, and registered, several times


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in sorted(_files(folder))}


def _files(folder: Path) -> set[str]:
    """All below but contents.json itself, POSIX."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return found - {CONTENTS}
