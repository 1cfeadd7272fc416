"""Who may sign, and as what: release/allowed_signers and release/revoked_keys, in OpenSSH's own formats.

    jane@hospital.org,jane namespaces="medseg-approval" ssh-ed25519 AAAAC3... reading room
    paul@hospital.org      namespaces="medseg-author"   ssh-ed25519 AAAAC3...

A person is a line's names; lines that share a name are of one person. The files are a draft: what counts is what an
approver has signed into the ledger (kind `signers`).
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.release import canonical
from pipelines.work import project
from pipelines.work.writing import replacing

AUTHOR, APPROVER = "author", "approver"
NAMESPACES = {AUTHOR: "medseg-author", APPROVER: "medseg-approval"}
ALLOWED = Path("release/allowed_signers")
REVOKED = Path("release/revoked_keys")
REMEDY = "`medseg signers add NAME KEY.pub --role author` (or approver) writes one"
_KEY = re.compile(r"(?P<kind>(?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+)\s+(?P<base64>[A-Za-z0-9+/]+=*)")
_OPTION = re.compile(r'(namespaces|valid-after|valid-before)="([^"\s]*)"')
_OPTIONS = rf"(?P<options>(?:{_OPTION.pattern},?)+)"
_LINE = re.compile(rf'(?P<names>[^\s*?!"]+)\s+(?:{_OPTIONS}\s+)?{_KEY.pattern}(?:\s.*)?')


@dataclass(frozen=True)
class Signer:
    """One line. `names`: whom ssh-keygen calls principals, the first is shown. `key`: kind and base64, no comment."""

    names: tuple[str, ...]
    namespaces: tuple[str, ...]
    key: str

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` tells it."""
        digest = hashlib.sha256(base64.b64decode(self.key.split()[1])).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(role for role, namespace in NAMESPACES.items() if namespace in self.namespaces)


@dataclass(frozen=True)
class Signers:
    """Both files. Raises ValueError, naming the line, for what leaves in doubt who signed."""

    text: str
    revoked: str = ""

    def __post_init__(self) -> None:
        owners: dict[str, Signer] = {}
        for line in self.lines:
            other = owners.setdefault(line.key, line)
            if not self.same_person(line.names[0], other.names[0]):
                raise ValueError(
                    f"{ALLOWED}: {other.names[0]} and {line.names[0]} have the same key; give each one alone, or both "
                    "lines a name in common if they are one person"
                )
        for key in self.revoked_keys:
            if not _KEY.fullmatch(key):
                raise ValueError(f"{REVOKED}: {key[:40]!r} is no public key; one KEY.pub a line")

    @property
    def sha256(self) -> str:
        return canonical.digest(self.to_json())

    def to_json(self) -> dict[str, str]:
        return {"allowed_signers": self.text, "revoked_keys": self.revoked}

    @cached_property
    def lines(self) -> tuple[Signer, ...]:
        return tuple(_signer(number, line) for number, line in _meant(self.text))

    @cached_property
    def revoked_keys(self) -> frozenset[str]:
        return frozenset(" ".join(line.split()[:2]) for _, line in _meant(self.revoked))

    def rows(self, in_force: "Signers | None") -> list[dict[str, Any]]:
        """What `medseg signers ls` shows. `in_force`: what an approver has signed."""
        signed = in_force.lines if in_force else ()
        return [
            {
                "names": line.names,
                "roles": line.roles,
                "fingerprint": line.fingerprint,
                "revoked": line.key in self.revoked_keys,
                "in_force": line in signed and in_force is not None and line.key not in in_force.revoked_keys,
            }
            for line in self.lines
        ]

    def of_key(self, key: str) -> tuple[Signer, ...]:
        """The lines with this key, one for each role."""
        return tuple(line for line in self.lines if line.key == key)

    def with_role(self, role: str) -> tuple[Signer, ...]:
        """Whose key is not revoked."""
        return tuple(line for line in self.lines if role in line.roles and line.key not in self.revoked_keys)

    def same_person(self, one: str, other: str) -> bool:
        """Do two names stand for one person? Names are compared without regard to case."""
        return bool(self._all_names(one) & self._all_names(other))

    def _all_names(self, name: str) -> set[str]:
        """A name and all others of that person."""
        found = {name.casefold()}
        groups = [{each.casefold() for each in line.names} for line in self.lines]
        while more := set[str]().union(*(group for group in groups if group & found)) - found:
            found |= more
        return found


def read() -> Signers:
    """The files of the project. Raises ValueError if there are none, or they say what cannot be."""
    file, revoked = project.root() / ALLOWED, project.root() / REVOKED
    if not file.is_file():
        raise ValueError(f"{ALLOWED}: no such file, so nobody may sign; {REMEDY}")
    return Signers(file.read_text(), revoked.read_text() if revoked.is_file() else "")


def add(name: str, public_key: Path, role: str) -> Signers:
    """Write a person's key into the file. `name`: one or several with commas, the first an e-mail address."""
    if role not in NAMESPACES:
        raise ValueError(f"role {role!r} is none of {', '.join(NAMESPACES)}")
    line = f'{name} namespaces="{NAMESPACES[role]}" {_key_in(public_key)}\n'
    before = read() if (project.root() / ALLOWED).is_file() else Signers("")
    return _write(ALLOWED, Signers(_ended(before.text) + line, before.revoked))


def revoke(name: str, public_key: Path) -> Signers:
    """Write a person's key into the file of those that count no more."""
    key, before = _key_in(public_key), read()
    if not any(before.same_person(name, line.names[0]) for line in before.of_key(key)):
        raise ValueError(f"{public_key} is no key of {name} in {ALLOWED}; `medseg signers ls` shows whose is whose")
    return _write(REVOKED, Signers(before.text, f"{_ended(before.revoked)}{key}\n"))


def _key_in(public_key: Path) -> str:
    """Kind and base64 of KEY.pub."""
    found = _KEY.match(public_key.read_text().strip())
    if not found:
        raise ValueError(f"{public_key} is no public key of OpenSSH's; `ssh-keygen -t ed25519` makes KEY and KEY.pub")
    return f"{found['kind']} {found['base64']}"


def _write(file: Path, signers: Signers) -> Signers:
    with replacing(project.root() / file) as temporary:
        temporary.write_text(signers.text if file == ALLOWED else signers.revoked)
    return signers


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _meant(text: str) -> Iterator[tuple[int, str]]:
    """(number, line), without empty ones and comments."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def _signer(number: int, line: str) -> Signer:
    found = _LINE.fullmatch(line)
    options = dict(_OPTION.findall(found["options"] or "")) if found else {}
    namespaces = tuple(options.get("namespaces", "").split(","))
    if not found or not set(namespaces) <= set(NAMESPACES.values()):
        raise ValueError(
            f'{ALLOWED}: line {number} must read NAME,NAME namespaces="NAMESPACE" KEY, without patterns, and with '
            f"namespaces of {', '.join(NAMESPACES.values())}; {REMEDY}"
        )
    return Signer(tuple(found["names"].split(",")), namespaces, f"{found['kind']} {found['base64']}")
