"""One zip that proves a version to people without this program: `medseg bundle VERSION`.

    dossier/              record, report, figures, lineage; its label maps by their digests in dossier/contents.json
    manifest.json         every scan: split, sha256 of its files; text of which the record holds the sha256
    ledger/               every signed statement, and release/ with the signers that it names last
    evidence/             what each request to release the version rested on, with the gate's verdict
    audit.jsonl           the audit log: its first line, and from the first to the last that concern the version
    card/                 model card, bill of materials, signature of the weights
    verify_bundle.py      proves all that with Python's standard library and ssh-keygen alone
    contents.json         sha256 of every file above, which the bundler may sign

The same version in the same state gives the same bytes. No name or id of a patient is in it; the report shows slices of
held-out scans.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from pipelines.release import audit, canonical, dossier, signatures, verify_bundle
from pipelines.release.audit import AuditLine
from pipelines.release.ledger import Ledger
from pipelines.release.signers import ALLOWED, AUTHOR, Signers
from pipelines.release.statement import REQUEST
from pipelines.release.verify_bundle import CONTENTS, SIGNATURE
from pipelines.scans import manifest
from pipelines.work import project
from pipelines.work.writing import replacing

EVIDENCE = Path("release/evidence")
README = """Evidence of a version of a segmentation model: what it was made of, how good it is, who released it.

    python3 -m zipfile -e BUNDLE.zip folder
    python3 folder/verify_bundle.py BUNDLE.zip [ALLOWED_SIGNERS]

Python 3.11 or newer and OpenSSH 8.9 or newer are all it needs. ALLOWED_SIGNERS: the list of who may sign, if you have
one from elsewhere; the first statement in ledger/ is taken on trust otherwise.
"""


def write(kept: Path, told: Ledger, card: Path, target: Path, key: Path | None = None) -> Path:
    """`kept`: the version's dossier, found whole. `told`: the ledger of its model. `card`: the folder of its card.
    `key`: of an author, who signs all.

    Raises ValueError if the audit log does not hold, evidence is missing, or the key is nobody's.
    """
    members = dict(_members(kept, card, told))
    by = _owner(key, told.signers) if key else None
    files = {name: verify_bundle.sha256(content) for name, content in sorted(members.items())}
    contents = canonical.text({"files": files, "signed_by": by})
    members[CONTENTS] = contents.encode()
    if key:
        members[SIGNATURE] = signatures.sign(contents, key, AUTHOR).encode()
    with replacing(target) as temporary:
        temporary.touch(mode=0o600)  # the report shows scans
        temporary.write_bytes(verify_bundle.written(members))
    verify_bundle.verify(target)
    return target


def _members(kept: Path, card: Path, told: Ledger) -> Iterator[tuple[str, bytes]]:
    yield "README.txt", README.encode()
    yield "verify_bundle.py", Path(verify_bundle.__file__).read_bytes()
    for file in sorted(path for path in kept.rglob("*") if path.is_file()):
        if not (name := file.relative_to(kept).as_posix()).startswith(verify_bundle.LEFT_IN_PLACE):
            yield f"{verify_bundle.DOSSIER}{name}", file.read_bytes()
    rows, _ = manifest.with_digest(kept / dossier.MANIFEST)
    yield verify_bundle.MANIFEST, json.dumps(rows, sort_keys=True).encode()
    for statement in told.statements:
        yield f"{verify_bundle.LEDGER}{statement.number:06d}.json", statement.text.encode()
    signers = told.signers or Signers("")
    yield verify_bundle.SIGNERS, signers.text.encode()
    yield verify_bundle.REVOKED, signers.revoked.encode()
    for statement in told.statements:
        if statement.kind == REQUEST and statement.content["record_sha256"] == kept.name:
            sha256 = statement.content["evidence_sha256"]
            yield f"{verify_bundle.EVIDENCE}{sha256}.json", _evidence(sha256)
    yield verify_bundle.AUDIT, "".join(_slice(kept, told)).encode()
    for file in sorted(card.iterdir()) if card.is_dir() else ():
        yield f"card/{file.name}", file.read_bytes()


def _evidence(sha256: str) -> bytes:
    file = project.root() / EVIDENCE / f"{sha256}.json"
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file; bring it from where the request was made") from None


def _slice(kept: Path, told: Ledger) -> list[str]:
    """The log's first line, by which it is known, and a stretch without a gap, since each proves the one before."""
    content = json.loads((kept / dossier.RECORD).read_text())
    marks = {kept.name, content["weights_sha256"], content["manifest_sha256"], *content["identity"].values()}
    own = [each for each in told.statements if each.content.get("record_sha256") == kept.name]
    heads = {each.audit_head["lines"] for each in own}
    found: list[str] = []
    end = 0
    for line in audit.read():
        concerns = line.number in heads or _concerns(line, told.name, marks)
        if concerns or len(found) > 1 or line.number == 1:
            found.append(f"{_text(line)}\n")
        end = len(found) if concerns else end
    return found[:end]


def _concerns(line: AuditLine, name: str, marks: set[str]) -> bool:
    """Its training, evaluations and registration, and every statement about its model; not where it was used."""
    facts = line.facts
    if line.event == "statement":
        return bool(facts["name"] == name)
    told = {**facts, **facts.get("identity", {})}.values()
    return line.event != "predict" and bool(marks & {each for each in told if isinstance(each, str)})


def _text(line: AuditLine) -> str:
    told = asdict(line)
    return canonical.text({"at": told.pop("time"), **told})


def _owner(key: Path, signers: Signers | None) -> str:
    public = key if key.suffix == ".pub" else key.with_name(f"{key.name}.pub")
    if not public.is_file():
        raise ValueError(f"{public}: no such file; it tells whose key {key} is: `ssh-keygen -y -f {key} > {public}`")
    found = (signers or Signers("")).of_key(" ".join(public.read_text().split()[:2]))
    if named := next((line.names[0] for line in found if AUTHOR in line.roles), None):
        return named
    raise ValueError(f"{key} is of no author in {ALLOWED} as the ledger has it; have it signed: `medseg signers sign`")
