"""The versions of a model in MLflow's registry, and what each is worth: its standing in the ledger.

    registry.find("models:/medsegformer@champion")      refused unless the ledger gives the alias to that version
    registry.find("models:/medsegformer/3").standing     candidate, champion, recalled, ...

Whoever may register a version may move any alias in MLflow: so `clinical-candidate` and `champion` are claims, believed
only with a signed statement (pipelines/release/ledger.py). A version under its number loads as what it is.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import params
from pipelines.release import ledger, publication, record, store, tracking
from pipelines.release.ledger import Ledger, LedgerError
from pipelines.release.reading import Reader, RefusedError
from pipelines.release.standings import ALIASES, State
from pipelines.work import project
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)

NOT_RELEASED = "not released, not for clinical use"
CANDIDATE, UNVERIFIED = State("candidate"), State("unverified")  # the ledger does not hold, so nothing is known


@dataclass(frozen=True)
class RegisteredModel:
    """A version, its record (pipelines/release/record.py), which its digest vouches for, and its standing."""

    name: str
    version: int
    record: dict[str, Any]
    run_id: str
    standing: State = CANDIDATE

    @property
    def record_sha256(self) -> str:
        return record.digest(self.record)

    @property
    def mark(self) -> str:
        """What stands on everything it makes: the alias it is released as, or that it is not."""
        return self.standing.word if self.standing.released else NOT_RELEASED

    @property
    def told(self) -> str:
        what = f"{self.name} version {self.version}: {self.standing.word}"
        return what if self.standing.released else f"{what}, {NOT_RELEASED}"

    def to_json(self) -> dict[str, Any]:
        """What stands beside everything it makes."""
        return {
            "model": self.name,
            "version": self.version,
            "record_sha256": self.record_sha256,
            "standing": self.standing.word,
            "released": self.standing.released,
            "mark": self.mark,
        }

    def weights(self) -> Path:
        """The local folder of its weights, their checksum verified. Raises ValueError if they are not to be had."""
        return store.find(self.record["weights_sha256"], self.run_id)


def find(model: str) -> RegisteredModel:
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises ValueError if there is none, it is not one of ours, or the alias is `clinical-candidate` or `champion` and by
    the ledger another's.
    """
    name, _, wanted = model.removeprefix("models:/").replace("@", "/@").partition("/")
    if not model.startswith("models:/") or not name or not wanted:
        raise ValueError(f"--model {model!r} must look like models:/NAME@ALIAS or models:/NAME/VERSION")
    client = Reader()
    try:
        if not wanted.startswith("@"):
            return _of(client, client.get_model_version(name, wanted))
        version = client.get_model_version_by_alias(name, wanted[1:])
    except RefusedError as error:
        raise ValueError(f"{name} {wanted}: {error}; `medseg status` shows what is registered") from None
    return _of(client, version) if wanted[1:] not in ALIASES else _released_as(client, version, wanted[1:])


def find_by_record(name: str, record_sha256: str) -> RegisteredModel:
    """The newest version with this record. Raises ValueError if there is none."""
    client = Reader()
    version = newest_of_record(client, name, record_sha256)
    if version is None:
        raise ValueError(f"{name} has no version with record {record_sha256[:12]}...; `medseg register` makes one")
    return _of(client, version)


def of_record(client: Any, content: dict[str, Any]) -> Any | None:
    """The same of a record's content."""
    return newest_of_record(client, content["name"], record.digest(content))


def newest_of_record(client: Any, name: str, record_sha256: str) -> Any | None:
    """MLflow's version, the newest of several; None if none has this record. A tag that only says so is not enough."""
    versions = client.search_model_versions(f"name = '{name}'")
    own = [version for version in versions if _digest_of(version.tags.get("record", "")) == record_sha256]
    return max(own, key=lambda version: int(version.version), default=None)


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def verified(version: Any) -> Any:
    """MLflow's version itself. Raises ValueError if its record is not what its digest says."""
    _record_of(version)
    return version


def released_name(name: str) -> str:
    """The registered model of whose versions the two aliases are claimed: `register.released`, or that of all."""
    file = project.root() / "params.yaml"
    settings = params.load(file).register_ if file.is_file() else None
    return settings.released or name if settings and settings.name == name else name


def champion(name: str) -> str | None:
    """`models:/...@champion` of the model whose records say `name`, if MLflow has a version of that alias at all."""
    client, released = tracking.configure().MlflowClient(), released_name(name)
    found = client.search_registered_models(f"name = '{released}'")
    return f"models:/{released}@champion" if any("champion" in each.aliases for each in found) else None


def ledger_of(client: Any, name: str) -> Ledger:
    """Of the model whose records say `name`: what lies here and what the registry holds. Raises LedgerError.

    A ledger's first statement is taken on trust. Which it was is noted, so that nobody can put another one in its place
    on a machine that has the ledger from MLflow alone.
    """
    told = ledger.read(name, published_of(client, name))
    noted = project.state_folder() / "ledgers" / name
    first = told.statements[0].sha256 if told.statements else ""
    if first and not noted.is_file():
        with replacing(noted) as temporary:
            temporary.write_text(first)
    elif noted.is_file() and noted.read_text() != first:
        raise LedgerError(
            f"the ledger of {name} does not begin with the statement that it began with when it was first read here; "
            f"bring release/ledger/{name} back, or remove {noted} to trust another one"
        )
    return told


def ledger_here(name: str) -> Ledger:
    return ledger_of(Reader(), name)


def published_of(client: Any, name: str) -> dict[int, str]:
    """Number -> text of the statements that MLflow has of that ledger; not checked."""
    return publication.read(client, released_name(name))


def _released_as(client: Any, version: Any, alias: str) -> RegisteredModel:
    """Raises ValueError if the ledger gives the alias to another version, to none, or does not hold."""
    content = _record_of(version)
    claimed = f"models:/{version.name}@{alias} is version {version.version}"
    try:
        told = ledger_of(client, content["name"])
    except LedgerError as error:
        raise ValueError(f"{claimed}, which nothing proves: {error}") from None
    holder, found = told.holder(alias), record.digest(content)
    if holder != found:
        owner = f"it belongs to the version with record {holder[:12]}..." if holder else "it belongs to none"
        raise ValueError(
            f"{claimed} ({told.state(found).word}), but by the signed ledger {owner}: it was moved by hand, or a "
            f"release was interrupted; `medseg release --settle` sets it right"
        )
    return RegisteredModel(version.name, int(version.version), content, _run_of(version), told.state(found))


def _of(client: Any, version: Any) -> RegisteredModel:
    content = _record_of(version)
    try:
        standing = ledger_of(client, content["name"]).state(record.digest(content))
    except LedgerError as error:
        log.warning("%s version %s counts as not released: %s", version.name, version.version, error)
        standing = UNVERIFIED
    return RegisteredModel(version.name, int(version.version), content, _run_of(version), standing)


def _record_of(version: Any) -> dict[str, Any]:
    """Of a version of its own model, or of the one that this releases into: else its author could choose the ledger."""
    try:
        content = dict(json.loads(version.tags["record"]))
        if record.digest(content) != version.tags["record_sha256"]:
            raise ValueError
        if version.name not in (content["name"], released_name(content["name"])):
            raise ValueError
        return content
    except (KeyError, TypeError, ValueError):
        raise _not_ours(version) from None


def _run_of(version: Any) -> str:
    try:
        return str(version.tags["mlflow_run_id"])
    except KeyError:
        raise _not_ours(version) from None


def _not_ours(version: Any) -> ValueError:
    return ValueError(
        f"{version.name} version {version.version} has no record that its digest vouches for: it was registered by "
        "something else, or changed since; `medseg register` makes a version of what lies in the project"
    )
