"""The project's secret key, and the pseudonyms made with it.

    key.load()                       from the file $MEDSEG_KEY_FILE names; refused if absent, open to others or weak
    key.of_project()                 that, or where none is named the project's own, made once in `.medseg`
    key.create(path)                 a new one, readable by its owner alone
    Pseudonyms(key).name(kind, id)   16 hex digits, the same for the same id, of no use without the key

A pseudonym is HMAC-SHA256 (RFC 2104) of the kind and the identifier: without the key nobody can test a guessed patient
id against it, which a plain hash allows in seconds. Losing the key loses the way back; its
holder has it.
"""

import hmac
import math
import os
import secrets
import stat
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from pipelines.work import environment, project

VARIABLE = "MEDSEG_KEY_FILE"
REMEDY = f"`medseg data key NEWFILE` makes one outside the project; then export {VARIABLE}=NEWFILE"
OWN = "key"  # below .medseg
MIN_LENGTH = 32  # characters
MIN_BITS = 128.0
MAX_SHIFT_DAYS = 3650  # dates move up to ten years back


class Pseudonyms:
    """Keyed, stable names of patients, studies, series, files; the empty identifier is refused."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _digest(self, kind: str, identifier: str) -> bytes:
        if not identifier:
            raise ValueError(f"an empty {kind} has no pseudonym")
        return hmac.digest(self._key, f"{kind}\0{identifier}".encode("utf-8", "surrogateescape"), "sha256")

    def name(self, kind: str, identifier: str) -> str:
        """16 hex digits: among 15,000 patients two share one with probability 6e-12."""
        return self._digest(kind, identifier).hex()[:16]

    def uid(self, uid: str) -> str:
        """A DICOM UID in the UUID-derived root 2.25 (PS3.5 B.2), the same for the same `uid`."""
        return f"2.25.{int.from_bytes(self._digest('uid', uid)[:16], 'big')}"

    def shift_days(self, patient: str) -> int:
        """By how many days all dates of a patient move, -MAX_SHIFT_DAYS..-1; `patient`: the pseudonym."""
        return -1 - int.from_bytes(self._digest("shift", patient)[:8], "big") % MAX_SHIFT_DAYS

    def fingerprint(self) -> str:
        """Tells two keys apart and gives neither away."""
        return self.name("fingerprint", "key")


def load() -> Pseudonyms:
    """Pseudonyms under the key in the file that $MEDSEG_KEY_FILE names. Raises ValueError with the remedy."""
    named = environment.read().key_file
    if named is None:
        raise ValueError(f"DICOM scans need a secret key for pseudonyms, and {VARIABLE} is not set; {REMEDY}")
    path = named.expanduser()
    _refuse_inside_project(path)
    return Pseudonyms(_read(path, VARIABLE))


def of_project() -> Pseudonyms:
    """Under the named key; where none is named, under the project's own: made once, never tracked or pushed.

    It need not be secret from who can read `.medseg`, as raw scans and their names lie beside. Raises ValueError.
    """
    path = project.state_folder() / OWN
    if environment.read().key_file is None and not path.exists():
        made = path.with_name(f".{os.getpid()}.{OWN}")
        made.unlink(missing_ok=True)
        _write(made)
        with suppress(FileExistsError):  # another process was faster
            path.hardlink_to(made)
        made.unlink()
    return known()


def known() -> Pseudonyms:
    """The project's, but none is made: raises ValueError where there is none."""
    if environment.read().key_file is not None:
        return load()
    return Pseudonyms(_read(project.state_path() / OWN, "the project's key"))


def _read(path: Path, called: str) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{called}: {path} is not a regular file; {REMEDY}")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise ValueError(f"{called}: {path} has mode {mode:o}, others can reach it; `chmod 600 {path}`")
        key = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"{called}: {path}: {error.strerror}; {REMEDY}") from None
    if weakness := weakness_of(key):
        raise ValueError(f"{called}: the key in {path} is weak: {weakness}; {REMEDY}")
    return key


def create(path: Path) -> Path:
    """Write a new random key of 256 bits. Raises ValueError if the file exists or lies inside the project."""
    path = path.expanduser().absolute()
    _refuse_inside_project(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(path)
    except FileExistsError:
        raise ValueError(
            f"{path} exists; a key is never overwritten, since pseudonyms made with it would be lost"
        ) from None
    return path


def _write(path: Path) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32) + "\n")


def weakness_of(key: bytes) -> str:
    """Why `key` could be guessed, or nothing. Entropy is at most what its characters and its compressed size allow."""
    if len(key) < MIN_LENGTH:
        return f"{len(key)} characters, at least {MIN_LENGTH} are due"
    by_repetition = 8.0 * max(0, len(zlib.compress(key, 9)) - 8)  # 8: zlib's own header and checksum, roughly
    steps = [(after - before) % 256 for before, after in pairwise(key)]  # abcdef... has many characters and one step
    bits = min(_entropy_bits(key), _entropy_bits(steps), by_repetition)
    return f"at most {bits:.0f} bits of entropy, at least {MIN_BITS:.0f} are due" if bits < MIN_BITS else ""


def _entropy_bits(values: Sequence[int]) -> float:
    """Shannon's, of the values as independent draws from their own frequencies."""
    return -sum(count * math.log2(count / len(values)) for count in Counter(values).values())


def _refuse_inside_project(path: Path) -> None:
    try:
        root = project.root().resolve()
    except ValueError:  # `medseg data key` may be asked for anywhere
        return
    if path.resolve().is_relative_to(root) or path.absolute().is_relative_to(root):
        raise ValueError(f"{path} lies inside the project, where it would be copied, committed or backed up; {REMEDY}")
