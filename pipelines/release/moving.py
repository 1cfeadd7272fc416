"""Aliases follow the ledger: what a signed statement says is published, and the alias moved to it.

The statement is the intent, the alias in MLflow its consequence: a command that is killed between the two, or an alias
that somebody moved by hand, is set right by the next command that releases anything.
"""

import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from typing import Any

from pipelines.release import audit, publication, registry, tracking
from pipelines.release.ledger import Ledger
from pipelines.release.reading import Reader
from pipelines.release.standings import ALIASES


def settle(name: str) -> list[str]:
    """Publish the ledger and let the aliases say what it says. What was changed, a sentence each; none if all is well.

    Raises ValueError if the ledger does not hold, or a version that it names is not registered.
    """
    client = tracking.configure().MlflowClient()
    told = registry.ledger_of(client, name)
    target = registry.released_name(name)
    if not told.statements and not _aliases(client, target):
        return []
    publication.write(client, _made(client, target), {each.number: each.text for each in told.statements})
    sentences = [_set_right(client, name, target, alias, told) for alias, _, _ in _differences(client, target, told)]
    if sentences:
        tracking.keep_copy()
    return sentences


def unsettled(name: str) -> list[str]:
    """What `settle` would change, without changing it."""
    client = Reader()
    told, target = registry.ledger_of(client, name), registry.released_name(name)
    return [
        f"{target}@{alias} is {f'version {there}' if there else 'nobody'} in MLflow, by the signed ledger "
        f"{f'the version with record {holder[:12]}...' if holder else 'nobody'}"
        for alias, holder, there in _differences(client, target, told)
    ]


def _differences(client: Any, target: str, told: Ledger) -> Iterator[tuple[str, str | None, str | None]]:
    """Alias, its holder's record by the ledger, and the version that has it in MLflow, where the two differ."""
    aliases = _aliases(client, target)
    for alias in ALIASES:
        holder, there = told.holder(alias), aliases.get(alias)
        found = client.get_model_version(target, there).tags.get("record_sha256") if there else None
        if found != holder or (there is None) != (holder is None):
            yield alias, holder, there


def _set_right(client: Any, name: str, target: str, alias: str, told: Ledger) -> str:
    holder, there = told.holder(alias), _aliases(client, target).get(alias)
    facts = {"model": target, "alias": alias, "former_version": there, "ledger_head": told.head}
    if holder is None:
        audit.append("move", **facts, version=None, record_sha256=None)
        client.delete_registered_model_alias(target, alias)
        return f"{target}@{alias} is taken from version {there}: no signed statement gives it"
    version = _version_with(client, name, target, holder)
    audit.append("move", **facts, version=version, record_sha256=holder)
    client.set_registered_model_alias(target, alias, version)
    return f"{target}@{alias} is now version {version}"


def _version_with(client: Any, name: str, target: str, record_sha256: str) -> str:
    """Its number in the registered model of releases; copied into it, if that is one of its own and lacks it."""
    if found := registry.newest_of_record(client, target, record_sha256):
        return str(registry.verified(found).version)
    candidate = registry.newest_of_record(client, name, record_sha256)
    if candidate is None:
        raise ValueError(
            f"{name} has no version with record {record_sha256[:12]}..., which the ledger names; `medseg register`"
            " makes one in the project that it was trained in"
        )
    with redirect_stderr(io.StringIO()):  # it prints what it does
        copied = client.copy_model_version(f"models:/{name}/{registry.verified(candidate).version}", target)
    return str(copied.version)


def _aliases(client: Any, model: str) -> dict[str, str]:
    """Alias -> version, of those that are claims."""
    found = publication.model_of(client, model)
    return {alias: str(version) for alias, version in found.aliases.items() if alias in ALIASES} if found else {}


def _made(client: Any, model: str) -> str:
    """`model`, made if there is none: by whoever releases, so that it is theirs."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return model
