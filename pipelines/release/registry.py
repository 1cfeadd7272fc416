"""The versions of a model in MLflow's registry: find one, move an alias, keep decisions."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.release import record, store, tracking


@dataclass(frozen=True)
class RegisteredModel:
    """A version, and its record (pipelines/release/record.py), which its digest vouches for."""

    name: str
    version: int
    record: dict[str, Any]
    run_id: str

    def weights(self) -> Path:
        """The local folder of its weights, their checksum verified. Raises ValueError if they are not to be had."""
        return store.find(self.record["weights_sha256"], self.run_id)


def find(model: str) -> RegisteredModel:
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION`. Raises ValueError if there is none, or it is not one of ours."""
    name, _, wanted = model.removeprefix("models:/").replace("@", "/@").partition("/")
    if not model.startswith("models:/") or not name or not wanted:
        raise ValueError(f"--model {model!r} must look like models:/NAME@ALIAS or models:/NAME/VERSION")
    mlflow = tracking.configure()
    client = mlflow.MlflowClient()
    try:
        if wanted.startswith("@"):
            return _of(client.get_model_version_by_alias(name, wanted[1:]))
        return _of(client.get_model_version(name, wanted))
    except mlflow.exceptions.MlflowException as error:
        raise ValueError(f"{name} {wanted}: {error.message}; `medseg status` shows what is registered") from None


def find_by_record(name: str, record_sha256: str) -> RegisteredModel:
    """The newest version with this record. Raises ValueError if there is none."""
    version = newest_of_record(tracking.configure().MlflowClient(), name, record_sha256)
    if version is None:
        raise ValueError(f"{name} has no version with record {record_sha256[:12]}...; `medseg register` makes one")
    return _of(version)


def of_record(client: Any, content: dict[str, Any]) -> Any | None:
    """The same of a record's content."""
    return newest_of_record(client, content["name"], record.digest(content))


def newest_of_record(client: Any, name: str, record_sha256: str) -> Any | None:
    """MLflow's version, the newest of several; None if none has this record."""
    versions = client.search_model_versions(f"name = '{name}'")
    own = [version for version in versions if version.tags.get("record_sha256") == record_sha256]
    return max(own, key=lambda version: int(version.version), default=None)


def _of(version: Any) -> RegisteredModel:
    try:
        content = dict(json.loads(version.tags["record"]))
        if record.digest(content) != version.tags["record_sha256"]:
            raise ValueError
        return RegisteredModel(version.name, int(version.version), content, version.tags["mlflow_run_id"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{version.name} version {version.version} has no record that its digest vouches for: it was registered by "
            "something else, or changed since; `medseg register` makes a version of what lies in the project"
        ) from None


class Registry:
    """The versions of one registered model."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._client = tracking.configure().MlflowClient()

    def holder(self, alias: str) -> int | None:
        from mlflow.exceptions import MlflowException

        try:
            return int(self._client.get_model_version_by_alias(self.name, alias).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such alias, or model
                return None
            raise

    def record(self, version: int, alias: str, verdict: str, by: str, reasons: list[str]) -> None:
        """Keep a decision on the version: the latest under `.decision`, each for ever under its time."""
        now = datetime.now(UTC)
        decision = json.dumps({"decision": verdict, "by": by, "reasons": reasons, "time": now.isoformat()})
        self._tag(version, f"promotion.{alias}.{now:%Y%m%dT%H%M%S.%fZ}", decision)
        for key, value in (
            ("decision", verdict),
            ("reviewer", by),
            ("reasons", json.dumps(reasons)),
            ("time", now.isoformat(timespec="seconds")),
        ):
            self._tag(version, f"promotion.{alias}.{key}", value)
        tracking.keep_copy()

    def move(self, alias: str, version: int) -> None:
        self._client.set_registered_model_alias(self.name, alias, str(version))
        tracking.keep_copy()

    def _tag(self, version: int, key: str, value: str) -> None:
        self._client.set_model_version_tag(self.name, str(version), key, value)
