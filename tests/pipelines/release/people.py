"""People with keys, a project, and a ledger that they sign: ann trains, bob approves, eve is a stranger."""

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pipelines.release import ledger, signatures, signers
from pipelines.release.statement import SIGNERS, Statement

MODEL = "kidneys"


@cache
def key(name: str) -> Path:
    """A private key, its public one beside as NAME.pub; the same for all tests of a process."""
    path = Path(mkdtemp(prefix="keys-")) / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path], check=True)
    return path


def public(name: str) -> str:
    """As a line of allowed_signers ends."""
    return " ".join(key(name).with_suffix(".pub").read_text().split()[:2])


def say(kind: str, content: dict[str, Any], by: str, model: str = MODEL) -> Statement:
    """Prepare, sign and append."""
    draft = ledger.prepare(model, kind, content)
    return ledger.append(signed(draft, by))


def signed(draft: Statement, by: str) -> Statement:
    return draft.signed(signatures.sign(draft.to_sign, key(by), draft.role))


def begin(model: str = MODEL) -> None:
    """Ann is an author, bob an approver, and bob has signed that."""
    signers.add("ann@hospital.org", key("ann").with_suffix(".pub"), "author")
    signers.add("bob@hospital.org,bob@home.net", key("bob").with_suffix(".pub"), "approver")
    say(SIGNERS, signers.read().to_json(), "bob", model)


@dataclass(frozen=True)
class Version:
    """Made up: of a record nothing but its name is needed here."""

    number: int
    authors: tuple[str, ...] = ("ann@hospital.org",)

    @property
    def record_sha256(self) -> str:
        return f"{self.number:064x}"

    def asks(self, alias: str, model: str = MODEL) -> dict[str, Any]:
        return {
            "version": self.number,
            "record_sha256": self.record_sha256,
            "alias": alias,
            "evidence_sha256": "e" * 64,
            "holder": ledger.read(model).holder(alias),
        }

    def request(self, alias: str = "clinical-candidate", by: str = "ann") -> Statement:
        return say("request", {**self.asks(alias), "authors": list(self.authors)}, by)

    def answer(self, request: Statement, kind: str = "approval", by: str = "bob") -> Statement:
        return say(kind, answering(request), by)

    def promote(self, *aliases: str) -> None:
        for alias in aliases or ("clinical-candidate", "champion"):
            self.answer(self.request(alias))


def answering(request: Statement) -> dict[str, Any]:
    asked = {name: value for name, value in request.content.items() if name != "authors"}
    return {**asked, "request_sha256": request.sha256, "meaning": "I looked at all worst cases"}
