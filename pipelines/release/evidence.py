"""What a request to release rests on: gathered from artifacts bound by hash, kept as one file under its digest.

    release/evidence/SHA256.json        canonical JSON; its sha256 stands in the author's request and in the approval

`gather` reads every byte of weights and dossier again; with the gate asked anew it is done for the request, and once
more at the moment of moving, when `changed` compares the two.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model import weights_file
from pipelines.release import audit, canonical, dossier, looks, plan, record, run_identity
from pipelines.release.gate import PASSES, Verdict
from pipelines.release.ledger import Ledger
from pipelines.release.registry import RegisteredModel
from pipelines.work import project
from pipelines.work.digests import sha256_of
from pipelines.work.writing import replacing

FOLDER = Path("release/evidence")
# What must be at the moment of moving as it was in the request, and how a person calls it.
BOUND = {
    "record_sha256": "the version",
    "weights_files": "its weights",
    "dossier_sha256": "its dossier",
    "holder": "the alias's present holder",
    "champion": "the champion that it was compared with",
    "plan_sha256": "the release plan",
    "signers_sha256": "the list of signers",
    "authors": "the authors",
}


def gather(
    version: RegisteredModel, alias: str, told: Ledger, verdict: Verdict, champion: str | None
) -> dict[str, Any]:
    """Everything that speaks for or against `version` as `alias`, each by its digest.

    `verdict`: the gate's, with every label map scored anew; `champion`: the record that it was compared with. Raises
    ValueError if weights or dossier are not what the record says.
    """
    folder = found(version)
    return {
        "model": version.record["name"],
        "version": version.version,
        "alias": alias,
        "record_sha256": version.record_sha256,
        "weights_sha256": version.record["weights_sha256"],
        "weights_files": {file.name: sha256_of(file) for file in weights_file.files(version.weights())},
        "dossier_sha256": dossier.digest(folder),
        "test_set_sha256": version.record["test_set_sha256"],
        "looks": looks.count(version.record["test_set_sha256"]),
        "gate": verdict.to_json(),
        "champion": champion,
        "holder": told.holder(alias),
        "plan_sha256": plan.digest(plan.read()),
        "signers_sha256": told.signers.sha256 if told.signers else None,
        "ledger_head": told.head,
        "authors": authors(version, folder),
        "program": run_identity.program(),
    }


def found(version: RegisteredModel) -> Path:
    """Its dossier, whole, with the figures that the record vouches for. Raises ValueError naming what is not."""
    folder = dossier.find(version.record_sha256, version.run_id)
    for name, sha256 in record.evaluation_files(folder / dossier.EVALUATION).items():
        if version.record["evaluation_files"][name] != sha256:
            raise ValueError(f"{folder / dossier.EVALUATION / name} is not what the version's record was made of")
    return folder


def refusals(evidence: Mapping[str, Any]) -> list[str]:
    """Why a request may not be made on it; none if it may."""
    verdict = evidence["gate"]
    return [] if verdict["verdict"] == PASSES else list(verdict["reasons"]) or [f"the gate: {verdict['verdict']}"]


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was when the request was made, in words; and why the gate no longer passes it."""
    differ = [f"{word} changed since the request" for key, word in BOUND.items() if before[key] != now[key]]
    return [*differ, *refusals(now)]


def keep(evidence: Mapping[str, Any]) -> str:
    """Its digest, under which it lies then."""
    sha256 = canonical.digest(evidence)
    with replacing(path(sha256)) as temporary:
        temporary.write_text(canonical.text(evidence))
    return sha256


def read(sha256: str) -> dict[str, Any]:
    """Raises ValueError if it is not here, or not what its digest says."""
    try:
        text = path(sha256).read_text()
    except FileNotFoundError:
        raise ValueError(f"{path(sha256)}: no such file; bring it from where the request was made") from None
    if sha256_of(path(sha256)) != sha256:
        raise ValueError(f"{path(sha256)} is not the evidence that was signed; bring it back from version control")
    return dict(json.loads(text))


def path(sha256: str) -> Path:
    return project.root() / FOLDER / f"{sha256}.json"


def authors(version: RegisteredModel, folder: Path) -> list[str]:
    """E-mail addresses of who wrote and committed the code and who ran training, as far as project and log tell."""
    found = set(json.loads((folder / dossier.ORIGIN).read_text())["authors"])
    for facts in audit.beginnings(version.record["weights_sha256"]):
        found.update(facts.get(role, "") for role in ("trainer", "author", "committer"))
    return sorted(found - {""})
