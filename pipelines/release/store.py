"""Weights by content: each once, under its sha256, and every version that has them refers to that.

    .medseg/weights/SHA256/model.safetensors        or its shards and their index

In an embedded registry that is the only place: a hard link to what training wrote, no second copy, where the file
system has links. On a server they are an artifact of the run that made them, fetched from there once a machine.
Nothing of a reference depends on where the project lies.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from model import weights_file
from pipelines.release import tracking
from pipelines.work import project
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)

ARTIFACT = "weights"


def place(sha256: str) -> Path:
    return project.state_folder() / "weights" / sha256


def keep(folder: Path, sha256: str) -> None:
    """Take the weights of a folder in, whose digest (`model.weights_file.digest`) is `sha256`, unless they are here."""
    if place(sha256).is_dir():
        return
    with replacing(place(sha256)) as temporary:
        temporary.mkdir()
        for file in [*weights_file.files(folder), *folder.glob("*.index.json")]:
            link(file, temporary / file.name)
        verified(temporary, sha256)  # what lies there may be of a later training than the record


def find(sha256: str, run_id: str) -> Path:
    """The folder with these weights, every byte checked. `run_id`: the MLflow run that has them, on a server.

    Raises ValueError if they are nowhere, or are not what `sha256` says.
    """
    if not place(sha256).is_dir():
        if _lies_in_the_project(sha256):
            keep(project.root() / project.TRAINED, sha256)
        elif tracking.is_embedded():
            raise ValueError(
                f"weights {sha256[:12]}... are not in {place(sha256).parent}, where all registered ones lie; bring the "
                "folder back from a copy of the project, or reproduce the commit they were made from"
            )
        else:
            _fetch(sha256, run_id)
    return verified(place(sha256), sha256)


def publish(client: Any, run_id: str, sha256: str) -> None:
    """Give the weights to the server's artifact store, once a run."""
    if tracking.is_embedded():
        return
    there = {Path(each.path).name for each in client.list_artifacts(run_id, ARTIFACT)}
    if not there >= {file.name for file in place(sha256).iterdir()}:  # none, or a part before it was interrupted
        client.log_artifacts(run_id, str(place(sha256)), ARTIFACT)


def verified(folder: Path, expected_sha256: str) -> Path:
    """`folder`, if its weights have this digest; ValueError otherwise."""
    found = weights_file.digest(folder)
    if found != expected_sha256:
        raise ValueError(
            f"{folder}: sha256 {found[:12]}... is not the registered {expected_sha256[:12]}...; not loaded"
        )
    return folder


def _lies_in_the_project(sha256: str) -> bool:
    trained = project.root() / project.TRAINED
    try:
        return weights_file.digest(trained) == sha256
    except (ValueError, OSError):  # not trained here, or half of it is gone
        return False


def _fetch(sha256: str, run_id: str) -> None:
    """Straight into the store: nothing of it passes through the folder for temporary files."""
    mlflow = tracking.configure()
    log.info("weights %s: fetching them from MLflow, once", sha256[:12])
    with replacing(place(sha256)) as temporary:
        temporary.mkdir()
        mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=ARTIFACT, dst_path=str(temporary))
        for file in (temporary / ARTIFACT).iterdir():
            file.rename(temporary / file.name)
        (temporary / ARTIFACT).rmdir()
        verified(temporary, sha256)


def link(file: Path, target: Path) -> None:
    """A hard link; a copy on another file system, or one without links."""
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)
    target.chmod(0o444)  # as DVC's cache has it; the link and what it was made from are one file
