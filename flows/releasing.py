"""Release: what each step checks, signs and leaves, without Prefect; flows/promotion.py waits between the first two.

    request(3, "champion", key)                 gate, evidence, the author's request in the ledger
    answer(request, signed)                     everything checked again, the answer in the ledger, the alias moved
    rollback(key, reason), recall(3, key, reason)

A step begins by finishing what was interrupted before, and ends by letting the aliases follow the ledger
(pipelines/release/moving.py).
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import params
from pipelines.release import audit, decisions, evidence, moving, registry
from pipelines.release.ledger import Ledger
from pipelines.release.registry import RegisteredModel
from pipelines.release.standings import ALIASES, CHAMPION
from pipelines.release.statement import APPROVAL, REFUSAL, WITHDRAWAL, Statement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recalled:
    """`moved`: what became of aliases, in sentences. `used`: predictions that the version made, of the audit log."""

    by: str
    moved: list[str]
    used: list[dict[str, Any]]


def name() -> str:
    return params.load().register_.name


def settle() -> list[str]:
    """Finish what was interrupted, undo what was moved by hand; told, and as sentences."""
    done = moving.settle(name())
    for sentence in done:
        log.info("%s", sentence)
    return done


def request(version: int, alias: str, key: Path | None) -> Statement:
    """The open request for this alias, or a new one, signed with the author's `key`.

    Raises ValueError with the reasons when the gate or the ledger's rules refuse it; then nothing is left but the
    gate's line in the audit log.
    """
    settle()
    found, told = _version(version)
    if open_one := decisions.open_request(told, found.record_sha256, alias):
        return open_one
    if key is None:
        raise ValueError(f"version {version} has no open request as {alias}; --key KEY, its author's, signs one")
    decisions.request(found, alias, {})
    gathered = _gathered(found, alias, told)
    if reasons := evidence.refusals(gathered):
        raise ValueError(f"version {version} is refused as {alias}: {'; '.join(reasons)}")
    evidence.keep(gathered)
    made = decisions.append(decisions.signed(decisions.request(found, alias, gathered), key))
    settle()
    return made


def open_request(version: int, alias: str) -> Statement:
    """The one that waits for an answer. Raises ValueError if there is none."""
    found, told = _version(version)
    if waiting := decisions.open_request(told, found.record_sha256, alias):
        return waiting
    raise ValueError(
        f"version {version} has no open request as {alias}, it is {told.state(found.record_sha256).word}; "
        f"`medseg promote {version} --to {alias} --key KEY` makes one"
    )


def answer(asked: Statement, signed: Statement) -> str:
    """Take an approval, a refusal or a withdrawal of a request into the ledger: what became of it, in a sentence.

    Raises ValueError, and leaves nothing, if the signature does not hold or anything changed since the request.
    """
    settle()
    said = f"version {asked.content['version']}", f"as {asked.content['alias']}"
    if signed.kind not in (APPROVAL, REFUSAL, WITHDRAWAL) or signed.content["request_sha256"] != asked.sha256:
        raise ValueError(f"what was signed is no answer to request {asked.number}; `medseg approve` prepares one")
    check(signed)
    if signed.kind == APPROVAL and (reasons := _objections(asked)):
        raise ValueError(f"{said[0]} is not released {said[1]}: {'; '.join(reasons)}; ask for it again")
    done = decisions.append(signed)
    word = {APPROVAL: "approved", REFUSAL: "refused", WITHDRAWAL: "withdrawn"}[done.kind]
    return "; ".join([f"{said[0]} is {word} {said[1]} by {done.by}", *_settled_after(done)])


def check(signed: Statement) -> Statement:
    """With `by`. Raises ValueError if the ledger would not take it now."""
    return _ledger().take(signed)


def rollback(key: Path, reason: str, version: int | None = None) -> str:
    """Give `champion` back to its former holder, or the former one told. What moved, in a sentence."""
    settle()
    found = _former(_ledger()) if version is None else _version(version)[0]
    found.weights()  # of what is given back, every byte
    evidence.found(found)
    done = decisions.append(decisions.signed(decisions.rollback(found, reason), key))
    return "; ".join([f"version {found.version} is {CHAMPION} again, by {done.by}", *_settled_after(done)])


def recall(version: int, key: Path, reason: str) -> Recalled:
    settle()
    found, _ = _version(version)
    done = decisions.append(decisions.signed(decisions.recall(found, reason), key))
    audit.append("recall", record_sha256=found.record_sha256, statement=done.sha256)
    return Recalled(done.by, _settled_after(done), list(used(found.record_sha256)))


def overview() -> dict[str, Any]:
    """Keys: `holders` (alias -> record_sha256 or None), `requests` (open ones), `unsettled` (sentences)."""
    told = _ledger()
    keys = ("version", "alias", "record_sha256")
    return {
        "holders": {alias: told.holder(alias) for alias in ALIASES},
        "requests": [
            {"number": each.number, "by": each.by, "time": each.time, **{key: each.content[key] for key in keys}}
            for each in told.requests
        ],
        "unsettled": moving.unsettled(name()),
    }


def used(record_sha256: str) -> Iterator[dict[str, Any]]:
    """Predictions that a version made here: when, and the digests of what went in and came out."""
    for line in audit.read(("predict",)):
        if line.facts.get("record_sha256") == record_sha256:
            yield {"time": line.time, **line.facts}


def _settled_after(done: Statement) -> list[str]:
    """What is signed stands, though the alias may have to wait for MLflow."""
    try:
        return settle()
    except ValueError as error:
        raise ValueError(
            f"statement {done.number} by {done.by} stands in the ledger, the aliases in MLflow do not follow it yet: "
            f"{error}; then `medseg release --settle`"
        ) from None


def _objections(asked: Statement) -> list[str]:
    """What speaks against moving now, everything having been gathered anew."""
    before = evidence.read(asked.content["evidence_sha256"])
    found, told = _version(asked.content["version"])
    return evidence.changed(before, _gathered(found, asked.content["alias"], told))


def _gathered(found: RegisteredModel, alias: str, told: Ledger) -> dict[str, Any]:
    from pipelines.serving import gate_check  # seconds, for torch

    said = gate_check.check(f"models:/{found.name}/{found.version}", alias)
    return evidence.gather(found, alias, told, said.verdict, said.champion.record_sha256 if said.champion else None)


def _version(version: int) -> tuple[RegisteredModel, Ledger]:
    return registry.find(f"models:/{name()}/{version}"), _ledger()


def _ledger() -> Ledger:
    return registry.ledger_here(name())


def _former(told: Ledger) -> RegisteredModel:
    """The last champion before the present one that is not recalled."""
    present, recalled = told.holder(CHAMPION), told.standings.recalled
    for record_sha256 in reversed(told.standings.champions):
        if record_sha256 != present and record_sha256 not in recalled:
            return registry.find_by_record(name(), record_sha256)
    raise ValueError(f"no version was {CHAMPION} before that is not recalled; there is nothing to go back to")
