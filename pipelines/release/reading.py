"""What MLflow's registry says, for whoever only reads it.

    Reader().get_model_version("medsegformer", "3").tags         as MlflowClient has it

Importing MLflow and its store costs a process 1.7 CPU-s, and between two trainings the registry says the same. Answers
of the project's own database are remembered with its sha256, in `.medseg/registry.json`; a server is always asked.
What is remembered proves as little as MLflow's tags: record and ledger are checked by pipelines/release/registry.py.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.release import tracking
from pipelines.work import project
from pipelines.work.digests import sha256_of
from pipelines.work.writing import write_json

NOT_THERE = "RESOURCE_DOES_NOT_EXIST"  # MLflow's word for it


class RefusedError(ValueError):
    """MLflow's answer is an error; the code is MLflow's."""

    def __init__(self, message: str, error_code: str) -> None:
        super().__init__(message)
        self.error_code = error_code


@dataclass(frozen=True)
class RegistryEntry:
    """A registered model, whose `aliases` are alias -> version, or a version of one, which has a list of its own."""

    name: str
    tags: Mapping[str, str]
    aliases: Any
    version: str = ""
    run_id: str | None = None


class Reader:
    """Questions that MlflowClient answers. Raises ValueError as `tracking.require_answer` does, at once."""

    def __init__(self) -> None:
        tracking.require_answer()

    def get_registered_model(self, name: str) -> RegistryEntry:
        return self._ask("get_registered_model", name)[0]

    def get_model_version(self, name: str, version: str) -> RegistryEntry:
        return self._ask("get_model_version", name, str(version))[0]

    def get_model_version_by_alias(self, name: str, alias: str) -> RegistryEntry:
        return self._ask("get_model_version_by_alias", name, alias)[0]

    def search_model_versions(self, which: str) -> list[RegistryEntry]:
        """Of at most 10,000 versions, as MlflowClient; without their aliases, as there."""
        return self._ask("search_model_versions", which)

    def _ask(self, question: str, *asked: str) -> list[RegistryEntry]:
        """Raises RefusedError."""
        before, key = _state(), json.dumps([question, *asked])
        answers = _remembered(before)
        if key not in answers:
            answers[key] = _told(question, asked)
            if before and _state() == before:
                with suppress(OSError):  # a full disk keeps nobody from reading
                    write_json(_place(), {"database": before, "answers": answers})
        return [RegistryEntry(**told) for told in answers[key]]


def _place() -> Path:
    return project.state_folder() / "registry.json"


def _remembered(database: str) -> dict[str, list[dict[str, Any]]]:
    """Question -> what was told of this state of the database."""
    try:
        content = json.loads(_place().read_text())
        return dict(content["answers"]) if database and content["database"] == database else {}
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged
        return {}


def _state() -> str:
    """The database's sha256; empty where it may not be what MLflow reads: on a server, or while something writes."""
    file = tracking.database()
    beside = [file.with_name(f"{file.name}-{kind}") for kind in ("journal", "wal")]
    if not tracking.is_embedded() or not file.is_file() or any(each.exists() for each in beside):
        return ""
    return sha256_of(file)


def _told(question: str, asked: tuple[str, ...]) -> list[dict[str, Any]]:
    mlflow = tracking.configure()
    try:
        found = getattr(mlflow.MlflowClient(), question)(*asked)
    except mlflow.exceptions.MlflowException as error:
        raise RefusedError(error.message, error.error_code) from None
    if question.startswith("search"):
        return [_entry(each) for each in found]
    return [_entry(found)]


def _entry(found: Any) -> dict[str, Any]:
    told = {"name": found.name, "tags": dict(found.tags)}
    if not hasattr(found, "version"):
        return {**told, "aliases": {alias: str(version) for alias, version in found.aliases.items()}}
    return {**told, "aliases": list(found.aliases), "version": str(found.version), "run_id": found.run_id}
