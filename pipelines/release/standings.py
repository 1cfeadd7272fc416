"""What the statements of a ledger amount to: who holds which alias, what waits, what is recalled; and what may follow.

`Standings.take` looks at one statement after the other and refuses, with a reason, what the rules forbid: here and only
here is said who may do what. Chain and signatures are the ledger's.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pipelines.release import statement as kinds
from pipelines.release.signers import APPROVER, Signers
from pipelines.release.statement import Statement

CLINICAL_CANDIDATE, CHAMPION = "clinical-candidate", "champion"
ALIASES = (CLINICAL_CANDIDATE, CHAMPION)  # in the order in which a version comes by them
EXPIRES = timedelta(days=30)
_ASKED = tuple(name for name in kinds.CONTENT[kinds.REQUEST] if name != "authors")


@dataclass(frozen=True)
class State:
    """Of a version. `alias`: that it holds, asks for, or asked for; `statement`: the one that says so."""

    word: str
    alias: str | None = None
    statement: Statement | None = None

    @property
    def released(self) -> bool:
        return self.word in ALIASES


@dataclass
class Standings:
    """`holders`: alias -> the statement that gave it. `requests`: open ones by their sha256.

    `champions`: records that once were, in order. `told`: record -> the last statement about it.
    """

    signers: Signers | None = None
    plan_sha256: str | None = None
    holders: dict[str, Statement] = field(default_factory=dict)
    requests: dict[str, Statement] = field(default_factory=dict)
    recalled: dict[str, Statement] = field(default_factory=dict)
    champions: list[str] = field(default_factory=list)
    told: dict[str, Statement] = field(default_factory=dict)

    def holder(self, alias: str) -> str | None:
        """The record that holds it."""
        return self.holders[alias].content["record_sha256"] if alias in self.holders else None

    def state(self, record_sha256: str, now: datetime | None = None) -> State:
        if record_sha256 in self.recalled:
            return State("recalled", None, self.recalled[record_sha256])
        for alias in reversed(ALIASES):
            if self.holder(alias) == record_sha256:
                return State(alias, alias, self.holders[alias])
        if (last := self.told.get(record_sha256)) is None:
            return State("candidate")
        if last.kind == kinds.REQUEST:
            word = "expired" if is_expired(last, now or datetime.now(UTC)) else "requested"
        else:
            word = {kinds.REFUSAL: "refused", kinds.WITHDRAWAL: "withdrawn"}.get(last.kind, "superseded")
        return State(word, last.content["alias"], last)

    def take(self, statement: Statement) -> None:
        """Raises ValueError, and takes nothing, if the rules forbid it."""
        if statement.content.get("alias", CHAMPION) not in ALIASES:
            raise ValueError(f"alias {statement.content['alias']!r} is none of {', '.join(ALIASES)}")
        _TAKES[statement.kind](self, statement)
        if record_sha256 := statement.content.get("record_sha256"):
            self.told[record_sha256] = statement

    def _signers(self, statement: Statement) -> None:
        signers = Signers(statement.content["allowed_signers"], statement.content["revoked_keys"])
        if not signers.with_role(APPROVER):
            raise ValueError("it leaves no approver whose key counts, so nobody could sign after it; keep or add one")
        self.signers = signers

    def _plan(self, statement: Statement) -> None:
        self.plan_sha256 = statement.content["plan_sha256"]

    def _request(self, statement: Statement) -> None:
        self._require_may_hold(statement)
        for other in self.requests.values():
            if _asks_the_same(other, statement) and not is_expired(other, datetime.fromisoformat(statement.time)):
                raise ValueError(f"request {other.number} asks for the same and waits; answer or withdraw that first")
        self.requests[statement.sha256] = statement

    def _approval(self, statement: Statement) -> None:
        request = self._answered(statement, _ASKED)
        self._require_second_person(statement, request)
        self._require_may_hold(statement)
        if is_expired(request, datetime.fromisoformat(statement.time)):
            raise ValueError(f"request {request.number} is older than {EXPIRES.days} days; ask anew")
        self._give(statement)
        del self.requests[request.sha256]

    def _refusal(self, statement: Statement) -> None:
        request = self._answered(statement, _ASKED)
        self._require_second_person(statement, request)
        del self.requests[request.sha256]

    def _withdrawal(self, statement: Statement) -> None:
        request = self._answered(statement, ("record_sha256", "alias"))
        if not self._known_signers().same_person(statement.by, request.by):
            raise ValueError(f"request {request.number} is {request.by}'s, who alone may withdraw it")
        del self.requests[request.sha256]

    def _rollback(self, statement: Statement) -> None:
        record_sha256 = statement.content["record_sha256"]
        self._refuse_recalled(record_sha256)
        if statement.content["alias"] != CHAMPION or record_sha256 not in self.champions:
            raise ValueError("only a former champion may be rolled back to, and only as champion")
        if self.holder(CHAMPION) == record_sha256:
            raise ValueError("this version is the champion already")
        self._give(statement)

    def _recall(self, statement: Statement) -> None:
        record_sha256 = statement.content["record_sha256"]
        self.recalled.setdefault(record_sha256, statement)
        self.holders = {
            alias: held for alias, held in self.holders.items() if held.content["record_sha256"] != record_sha256
        }
        self.requests = {
            sha256: each for sha256, each in self.requests.items() if each.content["record_sha256"] != record_sha256
        }

    def _give(self, statement: Statement) -> None:
        self.holders[statement.content["alias"]] = statement
        if statement.content["alias"] == CHAMPION:
            self.champions.append(statement.content["record_sha256"])

    def _answered(self, statement: Statement, same: Iterable[str]) -> Statement:
        """The open request that this answers. `same`: what it asked for and the answer has to say again."""
        sha256 = statement.content["request_sha256"]
        if (request := self.requests.get(sha256)) is None:
            raise ValueError(
                f"no request {sha256[:12]}... is open: it was answered, withdrawn or recalled, or never was"
            )
        for key in same:
            if statement.content[key] != request.content[key]:
                raise ValueError(f"its {key} is not that of request {request.number}")
        return request

    def _require_second_person(self, statement: Statement, request: Statement) -> None:
        signers = self._known_signers()
        for author in (request.by, *request.content["authors"]):
            if signers.same_person(statement.by, author):
                raise ValueError(f"{statement.by} is an author of it ({author}); another person has to answer")

    def _require_may_hold(self, statement: Statement) -> None:
        alias, record_sha256 = statement.content["alias"], statement.content["record_sha256"]
        self._refuse_recalled(record_sha256)
        if statement.content["holder"] != self.holder(alias):
            raise ValueError(f"{alias} is held by another version than when it was prepared; compare with that one")
        if self.holder(alias) == record_sha256:
            raise ValueError(f"this version is {alias} already")
        if alias == CHAMPION and self.holder(CLINICAL_CANDIDATE) != record_sha256:
            raise ValueError(f"only the {CLINICAL_CANDIDATE} may become {CHAMPION}; promote it to that first")

    def _refuse_recalled(self, record_sha256: str) -> None:
        if record_sha256 in self.recalled:
            raise ValueError(f"this version was recalled by statement {self.recalled[record_sha256].number}, for good")

    def _known_signers(self) -> Signers:
        assert self.signers is not None  # the first statement of a ledger names them
        return self.signers


def _asks_the_same(one: Statement, other: Statement) -> bool:
    return all(one.content[key] == other.content[key] for key in ("record_sha256", "alias"))


def is_expired(request: Statement, now: datetime) -> bool:
    return now - datetime.fromisoformat(request.time) > EXPIRES


_TAKES: dict[str, Callable[[Standings, Statement], None]] = {
    kinds.SIGNERS: Standings._signers,
    kinds.PLAN: Standings._plan,
    kinds.REQUEST: Standings._request,
    kinds.APPROVAL: Standings._approval,
    kinds.REFUSAL: Standings._refusal,
    kinds.WITHDRAWAL: Standings._withdrawal,
    kinds.ROLLBACK: Standings._rollback,
    kinds.RECALL: Standings._recall,
}
