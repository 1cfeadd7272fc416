"""Release: what each step checks, signs and leaves, without Prefect; flows/promotion.py waits between the first two.

    request(3, "champion", key)        gate, evidence, the author's request in the ledger
    answer(request, signed)            everything checked again, the approver's answer in the ledger, alias moved
    rollback("champion", ...), recall(3, ...)

A step's last act is to let the aliases follow the ledger (pipelines/release/moving.py); its first is to finish what was
interrupted before.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import params
from pipelines.release import audit, decisions, evidence, ledger, moving, registry, tracking
from pipelines.release.ledger import Ledger, Statement
from pipelines.release.registry import RegisteredModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recalled:
    """`moved`: what became of aliases. `used`: the audit log's lines of predictions that the version made."""

    statement: Statement
    moved: list[str]
    used: list[dict[str, Any]]


def request(version: int, alias: str, key: Path | None) -> Statement:
    """The open request for this alias, or a new one, signed with the author's `key`.

    Raises ValueError with the reasons when the gate or the ledger's rules refuse it; then nothing is left but the gate's
    line in the audit log.
    """
    found, told = _version(version)
    if open_one := told.open_request(found.record_sha256, alias):
        return open_one
    if key is None:
        raise ValueError(f"version {version} has no open request as {alias}; --key KEY, the author's, signs one")
    decisions.refuse_out_of_order(told, found, alias)
    gathered = _gathered(found, alias, told, again=2)
    if reasons := evidence.refusals(gathered):
        raise ValueError(f"version {version} is refused as {alias}: {'; '.join(reasons)}")
    statement = decisions.request(found, alias, gathered, evidence.keep(gathered))
    return _appended(decisions.signed(statement, key))


def open_request(version: int, alias: str) -> Statement:
    """The one that waits for an answer. Raises ValueError if there is none."""
    found, told = _version(version)
    if waiting := told.open_request(found.record_sha256, alias):
        return waiting
    raise ValueError(
        f"version {version} has no open request as {alias}, it is {told.state(found.record_sha256).word}; "
        f"`medseg promote {version} --to {alias} --key KEY` makes one"
    )


def answer(asked: Statement, signed: Statement) -> str:
    """Take an approval, a refusal or a withdrawal of a request into the ledger: what became of it, in a sentence.

    Raises ValueError, and nothing is left, if the signature does not hold or anything changed since the request.
    """
    content = asked.content
    if signed.kind == decisions.APPROVAL:
        found, told = _version(content["version"])
        now = _gathered(found, content["alias"], told, again=0)
        if reasons := evidence.changed(evidence.read(content["evidence_sha256"]), now):
            raise ValueError(f"version {content['version']} is not released: {'; '.join(reasons)}; ask for it again")
    _appended(signed)
    if signed.kind != decisions.APPROVAL:
        done = "refused" if signed.kind == decisions.REFUSAL else "withdrawn"
        return f"version {content['version']} is {done} as {content['alias']} by {signed.by}"
    moved = "; ".join(moving.settle(_name())) or "no alias had to move"
    return f"version {content['version']} is approved as {content['alias']} by {signed.by}: {moved}"
