"""Prove the evidence of a version, with Python's standard library and ssh-keygen alone.

    python3 verify_bundle.py BUNDLE.zip [ALLOWED_SIGNERS]

Lies in every bundle that `medseg bundle` writes; one that you have from elsewhere proves more.
Checked are the archive, byte by byte; every statement of the ledger, its link, its signature and who may say it; that
the dossier is the record's; the evidence that was signed; the slice of the audit log. The first statement names who may
sign and is taken on trust, unless ALLOWED_SIGNERS, which you have from elsewhere, says the same. Exit code 0 if all
holds; else 1, and the file that does not is named.
"""

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CONTENTS, SIGNATURE, RECORD = "contents.json", "contents.json.sig", "dossier/record.json"
SIGNERS, REVOKED, AUDIT, MANIFEST = "release/allowed_signers", "release/revoked_keys", "audit.jsonl", "manifest.json"
DOSSIER, LEDGER, EVIDENCE = "dossier/", "ledger/", "evidence/"
LEFT_IN_PLACE = ("evaluation/predictions/", "evaluation/brats/")  # of a dossier, known here by their digests
NAMESPACES = {"author": "medseg-author", "approver": "medseg-approval"}
OF_AUTHORS = ("request", "withdrawal")  # all else approvers say
NOTHING, FIRST = "0" * 64, "clinical-candidate"
Members = Mapping[str, bytes]


class BundleError(ValueError):
    """What does not hold; begins with the name of the file."""


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__)
        return 2
    try:
        told = verify(Path(sys.argv[1]), Path(sys.argv[2]).read_text() if len(sys.argv) > 2 else None)
    except (ValueError, LookupError, TypeError, OSError) as error:  # whatever a forger thought of
        print(f"NOT PROVED: {error}")
        return 1
    print("\n".join(told))
    return 0


def verify(path: Path, trusted: str | None = None) -> list[str]:
    """What was proved, in sentences. Raises BundleError. `trusted`: allowed_signers as known from elsewhere."""
    members = opened(path)
    record = _json(members, RECORD)
    ledger = Chain(members, trusted)
    return [
        f"{len(members)} files are what {CONTENTS} says; {_bundler(members, ledger)}",
        *_dossier(members, record),
        *ledger.told(sha256(members[RECORD])),
        *_evidence(members, ledger),
        *_audit(members, ledger),
    ]


def opened(path: Path) -> dict[str, bytes]:
    """The files of the archive. Raises BundleError naming the first that was changed, removed or added."""
    try:
        with zipfile.ZipFile(path) as archive:
            names, comment = archive.namelist(), archive.comment.decode("latin-1")
            members = {name: _member(archive, name) for name in names}
    except (zipfile.BadZipFile, struct.error, NotImplementedError) as error:
        raise BundleError(f"{path.name}: the archive is damaged: {error}") from None
    if sha256(members.get(CONTENTS, b"")) != comment:
        raise BundleError(f"{CONTENTS}: is missing, or not what the archive was closed with")
    told = _json(members, CONTENTS)
    due = {*told["files"], CONTENTS, *([SIGNATURE] if told["signed_by"] else [])}
    for name in sorted(due ^ members.keys()):
        raise BundleError(f"{name}: {'is missing' if name in due else 'was added'}")
    for name, digest in told["files"].items():
        if sha256(members[name]) != digest:
            raise BundleError(f"{name}: was changed")
    if written(members) != path.read_bytes():
        raise BundleError(f"{path.name}: bytes between its files were changed")
    return members


def written(members: Members) -> bytes:
    """The archive with these files: the same bytes whenever and wherever it is written."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name)  # of 1980
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, members[name])
        archive.comment = sha256(members[CONTENTS]).encode()
    return buffer.getvalue()


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except Exception as error:  # of any kind: what is damaged decides
        raise BundleError(f"{name}: cannot be read: {error}") from None


def _bundler(members: Members, ledger: "Chain") -> str:
    if not (by := _json(members, CONTENTS)["signed_by"]):
        return "nobody signed that, so card and bill of materials rest on it alone"
    try:
        ledger.require_signed(members[CONTENTS].decode(), members[SIGNATURE].decode("latin-1"), by, "author")
    except ValueError as error:
        raise BundleError(f"{SIGNATURE}: {error}") from None
    return f"{by} signed that"


def _dossier(members: Members, record: dict[str, Any]) -> Iterator[str]:
    told = {DOSSIER + name: digest for name, digest in _json(members, f"{DOSSIER}contents.json").items()}
    for name in sorted(name for name in members if name.startswith(DOSSIER) and name != f"{DOSSIER}contents.json"):
        if told.pop(name, None) != sha256(members[name]):
            raise BundleError(f"{name}: is not what {DOSSIER}contents.json says")
    maps = {name.removeprefix(DOSSIER): digest for name, digest in told.items()}
    if absent := [name for name in maps if not name.startswith(LEFT_IN_PLACE)]:
        raise BundleError(f"{DOSSIER}{absent[0]}: is missing, and {DOSSIER}contents.json lists it")
    predictions = {Path(name).name: digest for name, digest in maps.items() if name.startswith(LEFT_IN_PLACE[0])}
    for name, digest in record["evaluation_files"].items():
        where = f"{DOSSIER}evaluation/{name}"
        if digest != (sha256(spelled(predictions)) if name == "predictions" else sha256(members[where])):
            raise BundleError(f"{where}: is not what {RECORD} was made of")
    if sha256(members[MANIFEST]) != record["manifest_sha256"]:
        raise BundleError(f"{MANIFEST}: is not what {RECORD} was made of")
    held_out = [row for row in json.loads(members[MANIFEST]) if row["split"] == "test" and not row["quarantined"]]
    labels = [[row["case_id"], *sorted(f["sha256"] for f in row["files"] if f["role"] == "label")] for row in held_out]
    if sha256(json.dumps(sorted(labels))) != record["test_set_sha256"]:
        raise BundleError(f"{MANIFEST}: its held-out scans are not those of {RECORD}")
    for name, digest in record["weights_files"].items():
        yield f"weights {name}: sha256 {digest}"
    yield f"figures, {len(predictions)} label maps and {len(held_out)} held-out scans are those of {RECORD}"


class Chain:
    """The ledger, checked as it is read. `requests`: open ones by sha256. `holders`: alias -> record."""

    def __init__(self, members: Members, trusted: str | None) -> None:
        self.statements, self.requests = list[dict[str, Any]](), dict[str, dict[str, Any]]()
        self.sha256s, self.holders, self.recalled = list[str](), dict[str, str](), set[str]()
        self.signers = self.revoked = ""
        names = sorted(name for name in members if name.startswith(LEDGER))
        for number, name in enumerate(names, 1):
            try:
                if name != f"{LEDGER}{number:06d}.json":
                    raise BundleError(f"statement {number} is missing before it")
                self._take(members[name].decode("ascii").removesuffix("\n"), number)
            except (ValueError, KeyError, TypeError) as error:
                raise BundleError(f"{name}: {error}") from None
        if trusted is not None and (not names or self.statements[0]["content"]["allowed_signers"] != trusted):
            raise BundleError(f"{LEDGER}000001.json: does not name the signers that you trust")
        for name, text in ((SIGNERS, self.signers), (REVOKED, self.revoked)):
            if members[name].decode() != text:
                raise BundleError(f"{name}: is not what the ledger says last")

    def _take(self, text: str, number: int) -> None:
        statement = json.loads(text)
        if spelled(statement) != text:
            raise BundleError("is not in canonical JSON")
        if [statement["number"], statement["previous"]] != [number, *(self.sha256s or [NOTHING])[-1:]]:
            raise BundleError("does not follow on the statement before it")
        if statement["role"] != ("author" if statement["kind"] in OF_AUTHORS else "approver"):
            raise BundleError(f"an {statement['role']} may not say {statement['kind']!r}")
        if number == 1:
            self._follow(statement)  # the signers that it names vouch for it
        signed = spelled({key: value for key, value in statement.items() if key not in ("by", "signature")})
        at = datetime.fromisoformat(statement["time"]).astimezone(UTC)
        self.require_signed(signed, statement["signature"], statement["by"], statement["role"], at)
        self._follow(statement)
        self.statements += [statement]
        self.sha256s += [sha256(text)]

    def _follow(self, statement: dict[str, Any]) -> None:
        """What the statement changes. Raises BundleError if it may not be said."""
        content = statement["content"]
        if content.get("record_sha256") in self.recalled and statement["kind"] != "recall":
            raise BundleError("is of a version that was recalled")
        match statement["kind"]:
            case "signers":
                self.signers, self.revoked = content["allowed_signers"], content["revoked_keys"]
            case "request":
                if content["alias"] == "champion" and self.holders.get(FIRST) != content["record_sha256"]:
                    raise BundleError(f"asks for champion before the version was {FIRST}")
                self.requests[sha256(spelled(statement))] = statement
            case "approval" | "refusal":
                self._answer(statement, content)
            case "withdrawal":
                del self.requests[content["request_sha256"]]
            case "rollback":
                self.holders[content["alias"]] = content["record_sha256"]
            case "recall":
                self.recalled.add(content["record_sha256"])

    def _answer(self, statement: dict[str, Any], content: dict[str, Any]) -> None:
        request = self.requests.pop(content["request_sha256"])
        asked = {key: value for key, value in request["content"].items() if key != "authors"}
        if {key: content[key] for key in asked} != asked:
            raise BundleError(f"answers something else than request {request['number']} asked")
        for author in (request["by"], *request["content"]["authors"]):
            if self._names(author) & self._names(statement["by"]):
                raise BundleError(f"{statement['by']} answers a request of their own")
        if statement["kind"] == "approval":
            self.holders[content["alias"]] = content["record_sha256"]

    def _names(self, name: str) -> set[str]:
        """A person's, who may have several lines that share a name."""
        lines = [set(line.split()[0].casefold().split(",")) for line in self.signers.splitlines() if line.strip()]
        found = {name.casefold()}
        while more := set().union(*(line for line in lines if line & found)) - found:
            found |= more
        return found

    def require_signed(self, text: str, signature: str, by: str, role: str, at: datetime | None = None) -> None:
        """Raises ValueError unless `by` signed in this role, with a key that counts."""
        moment = f"{at or datetime.now(UTC):%Y%m%d%H%M%S}"
        with tempfile.TemporaryDirectory() as scratch:
            files = [Path(scratch) / name for name in ("allowed", "revoked", "signature")]
            for file, content in zip(files, (self.signers, self.revoked, signature), strict=True):
                file.write_text(content)
            command = ["ssh-keygen", "-Y", "verify", "-I", by, "-n", NAMESPACES[role], "-O", f"verify-time={moment}"]
            command += ["-f", str(files[0]), "-r", str(files[1]), "-s", str(files[2])]
            utc = {**os.environ, "TZ": "UTC"}
            if subprocess.run(command, input=text.encode(), capture_output=True, env=utc).returncode:
                raise BundleError(f"is not signed by {by} as {role}, with a key that counts")

    def told(self, record_sha256: str) -> Iterator[str]:
        """What the ledger says of a version."""
        yield f"{len(self.statements)} statements of the ledger follow on each other and are signed by who may"
        words = " and ".join(alias for alias, holder in self.holders.items() if holder == record_sha256)
        yield f"this version is {'recalled' if record_sha256 in self.recalled else words or 'not released'}"
        for each in self.statements:
            if each["content"].get("record_sha256") == record_sha256:
                words = " ".join(each["content"].get(key, "") for key in ("alias", "meaning", "reason"))
                yield f"  {each['time']} {each['kind']} by {each['by']}: {words.strip()}"


def _evidence(members: Members, ledger: Chain) -> Iterator[str]:
    """What authors asked with and approvers answered to is of this record, these weights and this dossier."""
    record_sha256, dossier_sha256 = sha256(members[RECORD]), sha256(members[f"{DOSSIER}contents.json"])
    weights = _json(members, RECORD)["weights_files"]
    due = {"record_sha256": record_sha256, "dossier_sha256": dossier_sha256, "weights_files": weights}
    own = [each["content"] for each in ledger.statements if each["kind"] == "request"]
    names = {f"{EVIDENCE}{each['evidence_sha256']}.json" for each in own if each["record_sha256"] == record_sha256}
    for name in sorted(names | {name for name in members if name.startswith(EVIDENCE)}):
        if name not in names or name != f"{EVIDENCE}{sha256(members.get(name, b''))}.json":
            raise BundleError(f"{name}: is not what a request for this version was made with")
        told = _json(members, name)
        if wrong := [key for key, value in due.items() if told[key] != value]:
            raise BundleError(f"{name}: its {wrong[0]} is not that of this bundle")
        yield f"{name} is of this record, dossier and weights"


def _audit(members: Members, ledger: Chain) -> Iterator[str]:
    """The first line, by which a log is known, and lines without a gap; the heads that people signed are theirs."""
    found, name = dict[int, str](), _json(members, RECORD)["name"]
    for line in members[AUDIT].decode("ascii").splitlines():
        told = json.loads(line)
        digest, number = told.pop("sha256"), told["number"]
        if sha256(spelled(told)) != digest or found.get(number - 1, told["previous"]) != told["previous"]:
            raise BundleError(f"{AUDIT}: line {number} was altered, or the one before it")
        facts = told["facts"]
        own = told["event"] == "statement" and facts["name"] == name
        if own and ledger.sha256s[facts["number"] - 1 : facts["number"]] != [facts["sha256"]]:
            raise BundleError(f"{LEDGER}{facts['number']:06d}.json: is not what line {number} of {AUDIT} tells")
        found[number] = digest
    numbers = sorted(found)
    if numbers[1:] and numbers[1:] != list(range(numbers[1], numbers[-1] + 1)):
        raise BundleError(f"{AUDIT}: lines are missing or out of order after line {numbers[1]}")
    heads = [(each, each["audit_head"]) for each in ledger.statements if each["audit_head"]["log"] == found.get(1)]
    for each, head in heads:  # those of another log are of another machine
        concerns = each["content"].get("record_sha256") == sha256(members[RECORD])
        if found.get(head["lines"], "" if concerns else head["sha256"]) != head["sha256"]:
            raise BundleError(f"{AUDIT}: is not the log over which statement {each['number']} was signed")
    yield f"{len(found)} lines of the audit log, to line {max(numbers, default=0)}, follow on each other"


def _json(members: Members, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(members[name]))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{name}: is missing or cannot be read ({error})") from None


def spelled(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(content: bytes | str) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
