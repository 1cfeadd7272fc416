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
KEEPS = timedelta(days=7)  # a statement is signed within so many days of being prepared


class LedgerError(ValueError):
    """A ledger is not as it was signed; the message names the statement."""


@dataclass(frozen=True)
class VerifiedLedgers:
    """`statements`: model -> number of them, where all hold. `first_broken`: the first that does not, in words."""

    ok: bool
    statements: dict[str, int]
    first_broken: str | None


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
        if self.statements and statement.time < self.statements[-1].time:
            raise ValueError(f"its time {statement.time} is before that of the statement before it")
        signers = self.signers or _first_signers(statement.kind, statement.content)
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
    signers = before.signers or _first_signers(kind, content)
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
    statement.require_form()
    with exclusive.opened(project.state_folder() / "ledger.lock"):
        before = read(statement.name, published)
        if abs(datetime.now(UTC) - datetime.fromisoformat(statement.time)) > KEEPS:
            raise ValueError(f"it was prepared at {statement.time}, which is not now; prepare and sign it anew")
        statement = before.take(statement)
        _keep(before.statements)
    return statement


def read(name: str, published: Published | None = None) -> Ledger:
    """All statements, every one checked. Raises LedgerError naming the first that does not hold.

    `published`: number -> text of those that MLflow has; they count as the files do, and must say the same.
    """
    ledger = Ledger(name)
    texts = _texts(name, published or {})
    for number in range(1, max(texts, default=0) + 1):
        if number not in texts:
            raise LedgerError(f"{_where(name, number)} is missing; bring it back from git or MLflow")
        try:
            statement = parse(texts[number])
            if ledger.take(statement) != statement:
                raise ValueError(f"it is not signed by {statement.by!r}")
        except ValueError as error:
            raise LedgerError(f"{_where(name, number)} does not hold: {error}") from None
    return ledger


def verify() -> VerifiedLedgers:
    """Every statement and signature of every ledger here."""
    counted: dict[str, int] = {}
    broken = None
    for folder in sorted(path for path in (project.root() / LEDGERS).glob("*") if path.is_dir()):
        try:
            counted[folder.name] = len(read(folder.name).statements)
        except ValueError as error:
            broken = broken or str(error)
    return VerifiedLedgers(broken is None, counted, broken)


def _keep(statements: list[Statement]) -> None:
    """Write the files, and the audit log's lines, that are missing: the last one's, and what a kill kept from being
    written, or another machine published."""
    try:
        told = {line.facts["sha256"] for line in audit.read(("statement",))}
    except audit.BrokenLogError:  # `medseg audit verify` says where; a recall has to be possible all the same
        told = {each.sha256 for each in statements[:-1]}
    for each in statements:
        if not (file := file_of(each.name, each.number)).is_file():
            with replacing(file) as temporary:
                temporary.write_text(f"{each.text}\n")
        if each.sha256 not in told:
            audit.append("statement", kind=each.kind, name=each.name, number=each.number, sha256=each.sha256)


def _texts(name: str, published: Published) -> dict[int, str]:
    """Number -> text, of the files and of what is published."""
    found = dict(published)
    for file in sorted(file_of(name, 1).parent.glob("[!.]*.json")):  # not what is being written
        if not re.fullmatch(r"[0-9]{6}", file.stem):
            raise LedgerError(f"{file.relative_to(project.root())} is no file of a ledger; take it out")
        number, text = int(file.stem), file.read_bytes().decode("latin-1")
        if not text.endswith("\n"):
            raise LedgerError(f"{_where(name, number)} does not hold: it is cut short")
        if found.setdefault(number, text[:-1]) != text[:-1]:
            raise LedgerError(f"{_where(name, number)} is not what MLflow has of it; one of the two was altered")
    return found


def _first_signers(kind: str, content: Mapping[str, Any]) -> Signers:
    if kind != SIGNERS:
        raise ValueError("no signers are signed yet; `medseg signers sign --key KEY` begins the ledger")
    return Signers(content["allowed_signers"], content["revoked_keys"])


def _where(name: str, number: int) -> str:
    return f"statement {number} of {name} ({file_of(name, number).relative_to(project.root())})"
