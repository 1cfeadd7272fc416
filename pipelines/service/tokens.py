"""Who may use the service: tokens by name, of which a hash is kept, in a file for its owner alone."""

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from pipelines.work import exclusive
from pipelines.work.writing import replacing

OWN_SENDERS = ("dimse", "watch")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


@dataclass(frozen=True)
class Caller:
    """`limit`: of its jobs that are not answered yet; None: as serve.yaml has it."""

    name: str
    limit: int | None = None


class Tokens:
    """`file`: read again whenever it changed, so that a new token needs no new start."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_of: tuple[int, int] | None = None
        self._callers: dict[str, Caller] = {}  # by hash

    def caller(self, token: str) -> Caller | None:
        self._refresh()
        return self._callers.get(_hash(token))

    def callers(self) -> list[Caller]:
        self._refresh()
        return sorted(self._callers.values(), key=lambda each: each.name)

    def add(self, name: str, limit: int | None = None) -> str:
        """The token, which is kept nowhere. Raises ValueError if the name is taken or none."""
        if not _NAME.fullmatch(name) or name in OWN_SENDERS:
            raise ValueError(
                f"token name {name!r} must be 1 to 40 of a-z, 0-9, '.', '_', '-', and none of {', '.join(OWN_SENDERS)}"
            )
        if limit is not None and limit < 1:
            raise ValueError(f"--limit {limit} must be at least 1")
        token = f"medseg_{secrets.token_urlsafe(32)}"
        with exclusive.opened(self._file.with_suffix(".lock")):
            if name in {each.name for each in self.callers()}:
                raise ValueError(f"token {name!r} exists; `medseg serve token remove {name}` first, or name another")
            self._write({**self._callers, _hash(token): Caller(name, limit)})
        return token

    def remove(self, name: str) -> None:
        """It is no token from now on. Raises ValueError if there is none."""
        with exclusive.opened(self._file.with_suffix(".lock")):
            if name not in {each.name for each in self.callers()}:
                raise ValueError(f"no token is named {name!r}; `medseg serve token list` shows all")
            self._write({key: each for key, each in self._callers.items() if each.name != name})

    def _write(self, callers: dict[str, Caller]) -> None:
        told = {each.name: {"sha256": key, "limit": each.limit} for key, each in callers.items()}
        with replacing(self._file) as temporary:
            temporary.touch(0o600)
            temporary.write_text(json.dumps(told, indent=2))

    def _refresh(self) -> None:
        try:
            found = self._file.stat()
        except FileNotFoundError:
            self._read_of, self._callers = None, {}
            return
        if (now := (found.st_mtime_ns, found.st_ino)) != self._read_of:
            told = json.loads(self._file.read_text())
            self._callers = {each["sha256"]: Caller(name, each["limit"]) for name, each in told.items()}
            self._read_of = now


def _hash(token: str) -> str:
    """Tokens are random and long: a plain hash cannot be guessed back."""
    return hashlib.sha256(token.encode()).hexdigest()
