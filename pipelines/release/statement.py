"""One signed statement of a ledger: what it says, what is signed, how it is written.

    {"audit_head":{...},"by":"jane@hospital.org","content":{...},"kind":"approval","name":"medsegformer","number":7,
     "previous":"...","role":"approver","signature":"-----BEGIN SSH SIGNATURE...","signers_sha256":"...","time":"..."}

Signed is the canonical JSON of all but `by` and `signature`; chained is that of the whole. `by` follows from the
signature, and is written down so that people can read it.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.release import canonical
from pipelines.release.signers import APPROVER, AUTHOR
from pipelines.work import project

LEDGERS = Path("release/ledger")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")

SIGNERS, PLAN, REQUEST, APPROVAL, REFUSAL = "signers", "plan", "request", "approval", "refusal"
WITHDRAWAL, ROLLBACK, RECALL = "withdrawal", "rollback", "recall"
# Who signs what.
ROLES = {
    SIGNERS: APPROVER, PLAN: APPROVER, REQUEST: AUTHOR, APPROVAL: APPROVER, REFUSAL: APPROVER, WITHDRAWAL: AUTHOR,
    ROLLBACK: APPROVER, RECALL: APPROVER,
}  # fmt: skip
# What the content must hold, and as what; a kind may say more.
_WORD, _WORDS = (str,), (list,)
_VERSION = {"version": (int,), "record_sha256": _WORD}
_ASKED = {**_VERSION, "alias": _WORD, "evidence_sha256": _WORD, "holder": (str, type(None))}
_ANSWER = {**_ASKED, "request_sha256": _WORD, "meaning": _WORD}
CONTENT: dict[str, dict[str, tuple[type, ...]]] = {
    SIGNERS: {"allowed_signers": _WORD, "revoked_keys": _WORD},
    PLAN: {"plan_sha256": _WORD, "text": _WORD},
    REQUEST: {**_ASKED, "authors": _WORDS},
    APPROVAL: _ANSWER,
    REFUSAL: _ANSWER,
    WITHDRAWAL: {"request_sha256": _WORD, "record_sha256": _WORD, "alias": _WORD},
    ROLLBACK: {**_VERSION, "alias": _WORD, "reason": _WORD},
    RECALL: {**_VERSION, "reason": _WORD},
}


@dataclass(frozen=True)
class Statement:
    """`name`: the registered model. `previous`: sha256 of the statement before. `time`: ISO 8601, UTC.

    `signers_sha256`: those in force when it was prepared. `by`, `signature`: empty until it is signed.
    """

    kind: str
    name: str
    number: int
    previous: str
    time: str
    content: dict[str, Any]
    signers_sha256: str
    audit_head: dict[str, Any]
    role: str
    by: str = ""
    signature: str = ""

    @property
    def to_sign(self) -> str:
        return canonical.text({key: value for key, value in asdict(self).items() if key not in ("by", "signature")})

    @property
    def text(self) -> str:
        """As a ledger keeps it, in a file or in MLflow."""
        return canonical.text(asdict(self))

    @property
    def sha256(self) -> str:
        return canonical.digest(asdict(self))

    def require_form(self) -> None:
        """Raises ValueError for an unknown kind, another role, a time not in UTC, or what the content lacks."""
        if ROLES.get(self.kind) != self.role:
            raise ValueError(f"there is no statement {self.kind!r} by an {self.role!r}")
        if not _UTC.fullmatch(self.time):
            raise ValueError(f"its time {self.time!r} is not in UTC, as in 2026-11-26T14:00:00+00:00")
        for name, types in CONTENT[self.kind].items():
            if not isinstance(self.content.get(name, ...), types):
                raise ValueError(f"its content lacks {name}, or has it as {type(self.content.get(name)).__name__}")

    def signed(self, signature: str) -> "Statement":
        """`signature`: as ssh-keygen wrote it; what a mail or an editor did to its lines' ends is undone."""
        return replace(self, signature="".join(f"{line.strip()}\n" for line in signature.strip().splitlines()))


def file_of(name: str, number: int) -> Path:
    """In a registered model's ledger."""
    if not re.fullmatch(r"\w[\w .-]*", name):
        raise ValueError(f"{name!r} is no name of a registered model that has a ledger; letters, digits, . - _ only")
    return project.root() / LEDGERS / name / f"{number:06d}.json"


def parse(text: str) -> Statement:
    """Raises ValueError if the text is not, to the letter, one that `Statement.text` gives."""
    try:
        statement = Statement(**json.loads(text))
    except (TypeError, ValueError):
        raise ValueError("it is no statement") from None
    if statement.text != text:
        raise ValueError("it is not in canonical JSON")
    return statement
