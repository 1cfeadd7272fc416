"""Sign a text with a person's own OpenSSH key, and say who signed one: `ssh-keygen -Y`, so hardware keys work as well.

A signature is of a text and a namespace, one for each role: what an author signed is no approval.
"""

import base64
import os
import struct
import subprocess
import sys
import tempfile
import textwrap
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from pipelines.release.signers import ALLOWED, NAMESPACES, Signers

_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"


def sign(text: str, key: Path, role: str) -> str:
    """The armoured signature. `key`: a private key, or the public one of a key in an agent.

    ssh-keygen itself asks on the terminal for a passphrase, or to touch a hardware key.
    """
    with tempfile.TemporaryDirectory() as scratch:
        (file := Path(scratch) / "statement").write_text(text)  # not by stdin: a passphrase is asked for at a terminal
        done = _ssh_keygen(["-Y", "sign", "-f", str(key), "-n", NAMESPACES[role], str(file)], sys.stderr.isatty())
        if done.returncode:
            why = f": {_last_line(done.stderr)}" if done.stderr else ""
            raise ValueError(f"{key} did not sign{why}; name a private key, or one that an agent holds")
        return file.with_suffix(".sig").read_text()


@lru_cache(maxsize=10_000)  # a ledger is read often, and all it holds is asked for each time
def verify(text: str, signature: str, role: str, signers: Signers, at: str | None = None) -> str:
    """Who signed: the first name of the signer's line. `at`: ISO 8601, the time at which the key has to be valid; now.

    Raises ValueError saying what is wrong: a stranger's key, a revoked one, another role, another text.
    """
    key = _key_of(signature)
    lines = signers.of_key(key)
    if not lines:
        raise ValueError(f"the signature is by a key that {ALLOWED} does not list; its owner is a stranger here")
    name = lines[0].names[0]
    if key in signers.revoked_keys:
        raise ValueError(f"the signature is by {name} with a key that is revoked; sign with one that counts")
    if not (line := next((line for line in lines if role in line.roles), None)):
        raise ValueError(f"the signature is by {name}, who is no {role} in {ALLOWED}")
    with tempfile.TemporaryDirectory() as scratch:
        allowed, signed, revoked = (Path(scratch) / name for name in ("allowed", "signature", "revoked"))
        allowed.write_text(signers.text)
        signed.write_text(signature)
        revoked.write_text(signers.revoked)
        who = ["-I", line.names[0], "-n", NAMESPACES[role], "-O", f"verify-time={_moment(at):%Y%m%d%H%M%S}"]
        files = ["-f", str(allowed), "-s", str(signed), "-r", str(revoked)]
        done = _ssh_keygen(["-Y", "verify", *who, *files], text=text)
    if done.returncode:
        raise ValueError(
            f"the signature by {name} as {role} is not of this text, or its key was not valid then "
            f"({_last_line(done.stderr or done.stdout)}); sign what is to be signed now"
        )
    return line.names[0]


def _key_of(signature: str) -> str:
    """The public key that a signature names, as in KEY.pub. Its form: PROTOCOL.sshsig of OpenSSH."""
    try:
        blob = base64.b64decode("".join(signature.splitlines()[1:-1]))
        key = _string(blob, len(b"SSHSIG") + 4)
        kind = _string(key, 0).decode("ascii")
    except (ValueError, struct.error):
        blob, key, kind = b"", b"", ""
    if not kind or _armoured(blob) != signature:  # to the letter, or one signature could be written in several ways
        raise ValueError(f"no signature as ssh-keygen writes it, from {_BEGIN} to {_END}")
    return f"{kind} {base64.b64encode(key).decode()}"


def _armoured(blob: bytes) -> str:
    return "\n".join([_BEGIN, *textwrap.wrap(base64.b64encode(blob).decode(), 70), _END, ""])


def _string(blob: bytes, at: int) -> bytes:
    (length,) = struct.unpack_from(">I", blob, at)
    return blob[at + 4 : at + 4 + length]


def _moment(at: str | None) -> datetime:
    return datetime.fromisoformat(at).astimezone(UTC) if at else datetime.now(UTC)


def _ssh_keygen(arguments: list[str], aloud: bool = False, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """`aloud`: what it says goes to the terminal, such as that a hardware key waits to be touched."""
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}  # times are given in UTC; older ones know no suffix Z
    told = None if aloud else subprocess.PIPE
    command = ["ssh-keygen", *arguments]
    try:
        return subprocess.run(command, input=text, stdout=told, stderr=told, text=True, env=environment)
    except FileNotFoundError:
        raise ValueError("ssh-keygen is not installed; signatures need OpenSSH 8.9 or newer") from None


def _last_line(told: str) -> str:
    return (told.strip().splitlines() or ["ssh-keygen said nothing"])[-1]
