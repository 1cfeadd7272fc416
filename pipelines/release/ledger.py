"""The chain of signed statements of one registered model: release/ledger/NAME/000001.json and on, meant for git.

    draft = ledger.prepare("medsegformer", "request", {...})
    ledger.append(draft.signed(signatures.sign(draft.to_sign, key, draft.role)))
    ledger.read("medsegformer").holder("champion") -> the record_sha256 that people signed for, or None

An alias in MLflow is a claim, which whoever may register can make; this is what it is believed by. Reading checks the
whole: each statement names the one before, is signed by somebody who might at that time, and keeps to the rules
(pipelines/release/standings.py). The first one names the signers and is taken on trust.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.release import audit, signatures
from pipelines.release.canonical import NOTHING
from pipelines.release.signers import Signers
from pipelines.release.standings import Standings, State
from pipelines.release.statement import LEDGERS, ROLES, SIGNERS, Statement, file_of, parse
from pipelines.work import exclusive, project
from pipelines.work.writing import replacing

Published = Mapping[int, str]
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
KEEPS = timedelta(days=7)  # a statement is signed within so many days of being prepared


class LedgerError(ValueError):
    """A ledger is not as it was signed; the message names the statement."""


@dataclass
class Ledger:
    """What is read; `take` adds a statement that fits."""

    name: str
    statements: list[Statement] = field(default_factory=list)
    standings: Standings = field(default_factory=Standings)

    @property
    def head(self) -> str:
        """sha256 of the last statement."""
        return self.statements[-1].sha256 if self.statements else NOTHING

    @property
    def signers(self) -> Signers | None:
        """In force now; None before the first statement."""
        return self.standings.signers

    @property
    def plan_sha256(self) -> str | None:
        """Of the plan that was signed last."""
        return self.standings.plan_sha256

    @property
    def requests(self) -> list[Statement]:
        """Those that wait for an answer, expired ones included."""
        return list(self.standings.requests.values())

    def holder(self, alias: str) -> str | None:
        """record_sha256 of the version that holds it."""
        return self.standings.holder(alias)

    def state(self, record_sha256: str, now: datetime | None = None) -> State:
        return self.standings.state(record_sha256, now)

    def take(self, statement: Statement) -> Statement:
        """Add it; it comes back with `by`. Raises ValueError, and takes nothing, if link, signature or rules forbid."""
        if statement.name != self.name:
            raise ValueError(f"it is of model {statement.name!r}, not of {self.name!r}")
        statement.require_form()
        if (statement.number, statement.previous) != (len(self.statements) + 1, self.head):
            raise ValueError("the ledger changed since it was prepared; prepare and sign it anew")
        if not _UTC.fullmatch(statement.time) or (self.statements and statement.time < self.statements[-1].time):
            raise ValueError(f"its time {statement.time!r} is not in UTC, or before that of the statement before it")
        signers = self.signers or _first_signers(statement)
        if statement.signers_sha256 != signers.sha256:
            raise ValueError("it is of other signers than those in force; prepare and sign it anew")
        by = signatures.verify(statement.to_sign, statement.signature, statement.role, signers, statement.time)
        statement = replace(statement, by=by)
        self.standings.take(statement)
        self.statements.append(statement)
        return statement


def prepare(name: str, kind: str, content: dict[str, Any], published: Published | None = None) -> Statement:
    """The next statement, unsigned: `.to_sign` is for somebody with `.role` to sign. `published`: see `read`."""
    before = read(name, published)
    signers = before.signers or Signers(content.get("allowed_signers", ""), content.get("revoked_keys", ""))
    return Statement(
        kind=kind,
        name=name,
        number=len(before.statements) + 1,
        previous=before.head,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        content=content,
        signers_sha256=signers.sha256,
        audit_head=asdict(audit.head()),
        role=ROLES[kind],
    )


def append(statement: Statement, published: Published | None = None) -> Statement:
    """Write a signed statement, whole or not at all, and tell the audit log; it comes back with `by`.

    Raises ValueError if it does not fit, also when another one was written since it was prepared.
    """
    with exclusive.opened(project.state_folder() / "ledger.lock"):
        before = read(statement.name, published)
        if abs(datetime.now(UTC) - datetime.fromisoformat(statement.time)) > KEEPS:
            raise ValueError(f"it was prepared at {statement.time}, which is not now; prepare and sign it anew")
        statement = before.take(statement)
        with replacing(file_of(statement.name, statement.number)) as temporary:
            temporary.write_text(f"{statement.text}\n")
        told = {"kind": statement.kind, "name": statement.name, "number": statement.number}
        audit.append("statement", **told, sha256=statement.sha256)
    return statement


def read(name: str, published: Published | None = None) -> Ledger:
    """All statements, every one checked. Raises LedgerError naming the first that does not hold.

    `published`: number -> text of those that MLflow has; they count as the files do, and must say the same.
    """
    ledger = Ledger(name)
    texts = _texts(name, published or {})
    for number in range(1, max(texts, default=0) + 1):
        where = f"statement {number} of {name} ({file_of(name, number).relative_to(project.root())})"
        if number not in texts:
            raise LedgerError(f"{where} is missing; bring it back from git or MLflow")
        try:
            statement = parse(texts[number])
            if ledger.take(statement) != statement:
                raise ValueError(f"it is not signed by {statement.by!r}")
        except ValueError as error:
            raise LedgerError(f"{where} does not hold: {error}") from None
    return ledger


def names() -> list[str]:
    """Of the models that have a ledger here."""
    return sorted(file.parent.name for file in (project.root() / LEDGERS).glob(f"*/{1:06d}.json"))


def _texts(name: str, published: Published) -> dict[int, str]:
    """Number -> text, of the files and of what is published."""
    found = dict(published)
    for file in sorted(file_of(name, 1).parent.glob("*.json")):
        told = file.relative_to(project.root())
        if not re.fullmatch(r"[0-9]{6}", file.stem):
            raise LedgerError(f"{told} is no file of a ledger; take it out")
        text = file.read_bytes().decode("latin-1")
        text = text[:-1] if text.endswith("\n") else f"{text} without its end"
        if found.setdefault(int(file.stem), text) != text:
            raise LedgerError(f"{told} is not what MLflow has of it; one of the two was altered")
    return found


def _first_signers(statement: Statement) -> Signers:
    if statement.kind != SIGNERS:
        raise ValueError("no signers are signed yet; `medseg signers sign --key KEY` begins the ledger")
    return Signers(statement.content["allowed_signers"], statement.content["revoked_keys"])
