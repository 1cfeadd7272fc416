"""The statements by which people release: what each says, prepared to be signed, and taken into the ledger.

    request       the author asks for an alias, on evidence
    approval      an approver, who is nobody of its authors, grants it; or refuses it: refusal
    withdrawal    the author takes the request back
    rollback      an approver gives `champion` back to a former one
    recall        an approver says that a version must not be used any more

What may follow what, and who may sign, pipelines/release/standings.py says.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.release import canonical, ledger, registry, signatures, tracking
from pipelines.release.ledger import Ledger
from pipelines.release.registry import RegisteredModel
from pipelines.release.standings import CHAMPION, is_expired
from pipelines.release.statement import RECALL, REQUEST, ROLLBACK, WITHDRAWAL, Statement

SHORTEST, LONGEST = 10, 2000  # characters of a meaning or a reason
_ASKED = ("version", "record_sha256", "alias", "evidence_sha256", "holder")


def request(version: RegisteredModel, alias: str, evidence: Mapping[str, Any]) -> Statement:
    """Of the author. `evidence`: of pipelines/release/evidence.py; empty to learn, before it is gathered, whether the
    version may ask at all. Raises ValueError if the rules forbid it."""
    name = version.record["name"]
    told = registry.ledger_here(name)
    if told.signers is None:
        raise ValueError(f"nobody may sign for {name} yet; `medseg signers sign --key KEY` begins its ledger")
    content = {
        "version": version.version,
        "record_sha256": version.record_sha256,
        "alias": alias,
        "evidence_sha256": canonical.digest(evidence),
        "holder": told.holder(alias),
        "authors": evidence.get("authors", []),
    }
    draft = prepared(name, REQUEST, content)
    told.standings.take(draft)  # of a ledger read for this alone
    return draft


def answer(asked: Statement, kind: str, meaning: str) -> Statement:
    """APPROVAL or REFUSAL of an open request by an approver, WITHDRAWAL by its author."""
    if kind == WITHDRAWAL:
        content = {key: asked.content[key] for key in ("version", "record_sha256", "alias")}
    else:
        content = {key: asked.content[key] for key in _ASKED} | {"meaning": _worded(meaning, "meaning")}
    return prepared(asked.name, kind, content | {"request_sha256": asked.sha256})


def rollback(version: RegisteredModel, reason: str) -> Statement:
    content = {"alias": CHAMPION, "record_sha256": version.record_sha256, "version": version.version}
    return prepared(version.record["name"], ROLLBACK, content | {"reason": _worded(reason, "reason")})


def recall(version: RegisteredModel, reason: str) -> Statement:
    content = {"record_sha256": version.record_sha256, "version": version.version}
    return prepared(version.record["name"], RECALL, content | {"reason": _worded(reason, "reason")})


def signed(statement: Statement, key: Path) -> Statement:
    return statement.signed(signatures.sign(statement.to_sign, key, statement.role))


def append(statement: Statement) -> Statement:
    """Into the ledger, and with `by`. Raises ValueError if signature or rules forbid; nothing is left then."""
    return ledger.append(statement, _published(statement.name))


def open_request(told: Ledger, record_sha256: str, alias: str) -> Statement | None:
    """The newest that waits for an answer and is not expired."""
    now = datetime.now(UTC)
    own = [
        each for each in told.requests
        if each.content["record_sha256"] == record_sha256 and each.content["alias"] == alias
        and not is_expired(each, now)
    ]  # fmt: skip
    return own[-1] if own else None


def prepared(name: str, kind: str, content: dict[str, Any]) -> Statement:
    """Any statement, by its kind: `.to_sign` is what a person signs."""
    return ledger.prepare(name, kind, content, _published(name))


def _published(name: str) -> Mapping[int, str]:
    return registry.published_of(tracking.configure().MlflowClient(), name)


def _worded(text: str, what: str) -> str:
    found = text.strip()
    if not SHORTEST <= len(found) <= LONGEST:
        raise ValueError(
            f"the {what} has {len(found)} characters, it must have {SHORTEST} to {LONGEST}: what was looked at"
        )
    return found
