"""What happened in this project: `.medseg/audit/log.jsonl`, one canonical JSON line an event, only ever appended to.

    audit.append("evaluate", weights_sha256=..., cases=41) -> the line's sha256
    audit.read(("evaluate", "compare"))                    -> those lines, in order
    audit.verify()                                         -> is it whole, and if not, where it breaks

    {"at":"2026-11-26T14:00:00.000000Z","event":"evaluate","facts":{...},"number":7,"previous":"...","sha256":"..."}

Each line holds the sha256 of the one before, and its own. Whoever may write the file could still write all of it anew,
or cut it short: so every statement of the ledger, which people sign, holds the head of the log at its time, and
`verify` looks for those heads. Nothing that identifies a patient belongs here: digests, numbers, pseudonyms.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.release import canonical
from pipelines.release.canonical import NOTHING
from pipelines.release.statement import LEDGERS, file_of
from pipelines.work import exclusive, faults, project

log = logging.getLogger(__name__)

TORN = "torn"  # the event by which an append tells that a line before it was cut off in mid-write
_CLOSING = re.compile(rb',"number":(\d+),"previous":"([0-9a-f]{64})","sha256":"([0-9a-f]{64})"\}\Z')
_STATEMENT = b'statement","facts":'
_OWN_HASH = len(f',"sha256":"{NOTHING}"}}')
_BEFORE_EVENT = len('{"at":"2026-11-26T14:00:00.000000Z","event":"')


@dataclass(frozen=True)
class AuditLine:
    """`number` counts from 1. `time`: ISO 8601, UTC. `previous`: the sha256 of the line before."""

    number: int
    time: str
    event: str
    facts: dict[str, Any]
    previous: str
    sha256: str


@dataclass(frozen=True)
class AuditHead:
    """Where a log stands: its number of lines, the last one's sha256, and the first one's, by which a log is known."""

    lines: int = 0
    sha256: str = NOTHING
    log: str = NOTHING


@dataclass(frozen=True)
class Verified:
    """`first_broken`: the first place that is altered, missing or out of order, in words; None if all is as written.

    Where it is whole, `lines` are this project's own, and `heads` signed ones that were looked for.
    """

    ok: bool
    lines: int
    heads: int
    first_broken: str | None


class BrokenLogError(ValueError):
    """The log is not as it was written; the message names the line."""


def path() -> Path:
    return project.state_folder() / "audit" / "log.jsonl"


def append(event: str, **facts: Any) -> str:
    """Write one line and see it onto the disk; its sha256. Reads the log's end only, however long it is.

    What a killed process left half written becomes, as it is, the text of a line of its own.
    """
    with exclusive.opened(path()) as fd:
        size = os.fstat(fd).st_size
        end, number, previous = _last(fd, size)
        lines = [(event, facts)]
        if end < size:
            log.warning("%s: line %d was cut off in mid-write; it is kept in a line of its own", path(), number + 1)
            lines.insert(0, (TORN, {"text": os.pread(fd, size - end, end).decode("latin-1")}))
        written = b""
        for name, told in lines:
            number += 1
            line, previous = _line(name, told, number, previous)
            written += line + b"\n"
        _write(fd, written, end if end < size else None)
        return previous


def read(events: Collection[str] | None = None) -> Iterator[AuditLine]:
    """The lines, or those of some events. Raises BrokenLogError at the first that is not as it was written."""
    wanted = None if events is None else tuple(f'{event}","facts":'.encode() for event in events)
    for line, _ in _walk(path()):
        if wanted is None or line.startswith(wanted, _BEFORE_EVENT):
            yield _parsed(line)


def beginnings(weights_sha256: str) -> list[dict[str, Any]]:
    """The facts of each beginning of the training that made these weights here; one for each time it went on."""
    lines = list(read(("train.start", "train")))
    runs = {line.facts["run"] for line in lines if line.facts.get("weights_sha256") == weights_sha256}
    return [line.facts for line in lines if line.event == "train.start" and line.facts["run"] in runs]


def head() -> AuditHead:
    """Of the log as it is now; does not read the whole."""
    if not path().is_file():
        return AuditHead()
    with exclusive.opened(path()) as fd:
        _, number, sha256 = _last(fd, os.fstat(fd).st_size)
    with path().open("rb") as file:
        first = file.readline()
    return AuditHead(number, sha256, first[-67:-3].decode()) if number else AuditHead()


def verify() -> Verified:
    """Every line, against the one before, against the heads that people signed, and against the ledger's files.

    A statement signed on another machine holds the head of that machine's log: it is looked for in every *.jsonl that
    lies beside this project's own.
    """
    lines, heads, broken = 0, 0, None
    try:
        signed = _signed_heads()
        heads = sum(map(len, signed.values()))
        lines = _verify_one(path(), signed)
        for other in sorted(set(path().parent.glob("*.jsonl")) - {path()}):
            _verify_one(other, signed)
        for head, (name, *_) in signed.items():
            raise BrokenLogError(
                f"{path()}: line 1 is missing, or was written anew: {name} was signed over {head.lines} lines of log "
                f"{head.log[:12]}..., which is not here; if another machine keeps it, put a copy beside, as NAME.jsonl"
            )
    except ValueError as error:
        broken = str(error)
    return Verified(broken is None, lines, heads, broken)


def _verify_one(file: Path, signed: dict[AuditHead, list[str]]) -> int:
    """Number of its lines; the heads that are of this log are taken out of `signed`."""
    number, log_sha256, there = 0, "", dict[int, str]()
    wanted = {head.lines for head in signed}
    for number, (line, sha256) in enumerate(_walk(file, whole=True), 1):
        log_sha256 = log_sha256 or sha256
        if number in wanted:
            there[number] = sha256
        if line.startswith(_STATEMENT, _BEFORE_EVENT):
            _require_statement(file, number, _parsed(line).facts)
    for head in sorted((head for head in signed if head.log == log_sha256), key=lambda head: head.lines):
        name = signed.pop(head)[0]
        if head.lines > number:
            raise BrokenLogError(
                f"{file}: line {number + 1} is missing: there were {head.lines} when {name} was signed, now {number}"
            )
        if there[head.lines] != head.sha256:
            raise BrokenLogError(f"{file}: line {head.lines}, or one before, was written anew after {name} was signed")
    return number


def _require_statement(file: Path, number: int, facts: dict[str, Any]) -> None:
    """The statement that a line tells of is still in the ledger, as it was."""
    statement = file_of(facts["name"], facts["number"])
    found = statement.read_bytes().rstrip(b"\n") if statement.is_file() else b""
    if hashlib.sha256(found).hexdigest() != facts["sha256"]:
        wrong = "was altered" if found else "is missing"
        raise BrokenLogError(
            f"{statement} {wrong}: it is not what line {number} of {file} tells; bring it back from git or MLflow"
        )


def _signed_heads() -> dict[AuditHead, list[str]]:
    """Head -> the statements of the ledgers that hold it."""
    found: dict[AuditHead, list[str]] = {}
    for file in sorted((project.root() / LEDGERS).glob("*/[!.]*.json")):
        name = str(file.relative_to(project.root()))
        try:
            head = AuditHead(**json.loads(file.read_bytes())["audit_head"])
        except (ValueError, KeyError, TypeError):
            raise BrokenLogError(f"{name} was altered: it is no statement; bring it back from git or MLflow") from None
        if head.lines:
            found.setdefault(head, []).append(name)
    return found


def _walk(file: Path, whole: bool = False) -> Iterator[tuple[bytes, str]]:
    """(line, sha256), each checked. `whole`: also what a kill left half written at the end is an error."""
    if not file.is_file():
        return
    previous = NOTHING
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            line = raw[:-1]
            if raw[-1:] != b"\n":
                if whole:
                    raise BrokenLogError(f"{file}: line {number} was cut off in mid-write; the next event mends that")
                return
            sha256 = hashlib.sha256(line[:-_OWN_HASH] + b"}").hexdigest()
            if not line.endswith(_closing(number, previous, sha256)):
                raise BrokenLogError(f"{file}: {_what_is_wrong(line, number, sha256)}")
            yield line, sha256
            previous = sha256


def _what_is_wrong(line: bytes, number: int, sha256: str) -> str:
    found = _CLOSING.search(line)
    if not found or found[3] != sha256.encode():
        return f"line {number} was altered: its sha256 is not what it says"
    if int(found[1]) != number:
        return f"line {number} is missing or out of order: line {int(found[1])} stands in its place"
    return f"line {number - 1} was replaced: line {number} holds the sha256 of another"


def _parsed(line: bytes) -> AuditLine:
    told = json.loads(line)
    return AuditLine(time=told.pop("at"), **told)


def _line(event: str, facts: dict[str, Any], number: int, previous: str) -> tuple[bytes, str]:
    """A line without its end, and its sha256, which is of the line without that."""
    told = {"at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", "event": event, "facts": facts}
    body = canonical.text({**told, "number": number, "previous": previous}).encode()
    sha256 = hashlib.sha256(body).hexdigest()
    return body[:-1] + f',"sha256":"{sha256}"}}'.encode(), sha256


def _closing(number: int, previous: str, sha256: str) -> bytes:
    return f',"number":{number},"previous":"{previous}","sha256":"{sha256}"}}'.encode()


def _last(fd: int, size: int) -> tuple[int, int, str]:
    """Of the last whole line: where it ends, its number, its sha256."""
    length = 1 << 12
    while True:
        start = max(0, size - length)
        tail = os.pread(fd, size - start, start)
        end = tail.rfind(b"\n") + 1
        begin = tail.rfind(b"\n", 0, max(0, end - 1)) + 1
        if begin or not start:
            break
        length *= 8
    if not end:
        return 0, 0, NOTHING
    if not (found := _CLOSING.search(tail[begin : end - 1])):
        raise BrokenLogError(f"{path()}: its last line was altered; `medseg audit verify` says more")
    return start + end, int(found[1]), found[3].decode()


def _write(fd: int, data: bytes, over: int | None) -> None:
    """Append; or, in place of half a line, from the offset `over` on: what is written holds it, so it is longer."""
    if over is None:
        written = os.write(fd, data)
    else:
        other = os.open(path(), os.O_WRONLY)  # one that appends writes nowhere else
        try:
            written = os.pwrite(other, data, over)
        finally:
            os.close(other)
    if written < len(data):
        raise faults.full_disk(path(), len(data))
    os.fsync(fd)
    if os.fstat(fd).st_size == len(data):  # the file is new: its name has to last, too
        folder = os.open(path().parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
