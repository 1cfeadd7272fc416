"""The card of a registered version as it stands now, and the signature of its weights.

issue(registry.find("models:/medsegformer/3")) -> content      the files: pipelines/release/card.py
sign(model, key), verify(model)                                 model.sig beside them
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.release import audit, card, dossier, ledger, looks, record, registry, tracking, weights_signature
from pipelines.release.registry import RegisteredModel
from pipelines.release.signers import Signer, Signers
from pipelines.work.digests import sha256_of


def issue(model: RegisteredModel) -> dict[str, Any]:
    """The card of a registered version as it stands now, in its place. Raises ValueError as `card.write` does."""
    record_sha256 = record.digest(model.record)
    folder, kept = card.place(record_sha256), dossier.find(record_sha256, model.run_id)
    _bring_signature(model, folder / weights_signature.FILE)
    return card.write(folder, kept, standing_of(model.version, model.record))


def standing_of(version: int | str, content: Mapping[str, Any]) -> dict[str, Any]:
    """What ledger and audit log say now of the version with this record."""
    record_sha256 = record.digest(content)
    told: dict[str, Any] = {"version": str(version), "looks": looks.count(content["test_set_sha256"])}
    for line in audit.read(("gate",)):
        if line.facts.get("record_sha256") == record_sha256:
            told |= {"verdict": line.facts["verdict"], "reasons": line.facts.get("reasons", [])}
    try:
        state = registry.ledger_here(content["name"]).state(record_sha256)
    except ledger.LedgerError as error:
        return {**told, "word": registry.UNVERIFIED.word, "problem": str(error)}
    return {**told, "word": state.word, "since": state.statement.time if state.statement else ""}


def sign(model: RegisteredModel, key: Path) -> Path:
    """Sign the version's weights, every byte of them checked before; the signature's file, beside the card."""
    record_sha256, weights = record.digest(model.record), model.weights()
    path = card.place(record_sha256) / weights_signature.FILE
    card.write_text(path, weights_signature.sign(weights, key, model.name))
    if not tracking.is_embedded():
        tracking.configure().MlflowClient().log_artifact(model.run_id, str(path), _artifact(record_sha256))
    audit.append(
        "sign",
        record_sha256=record_sha256,
        weights_sha256=model.record["weights_sha256"],
        signature_sha256=sha256_of(path),
    )
    return path


def verify(model: RegisteredModel, public_key: Path | None = None) -> str:
    """By whom the version's weights are signed: of the signers in the ledger, or the owner of the key that is given.

    Raises ValueError if they are not, or differ from what was signed.
    """
    signature = _signature(model)
    if public_key:
        key, by = public_key.read_text(), str(public_key)
    else:
        signer = _signer(model.record["name"], signature)
        key, by = signer.key, signer.names[0]
    weights_signature.verify(model.weights(), signature, key)
    return by


def _signature(model: RegisteredModel) -> str:
    path = card.place(record.digest(model.record)) / weights_signature.FILE
    _bring_signature(model, path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `medseg card sign {model.version} --key KEY` makes it")
    return path.read_text()


def _bring_signature(model: RegisteredModel, path: Path) -> None:
    """What another machine gave to the server, unless there is one here."""
    if path.is_file() or tracking.is_embedded():
        return
    mlflow, where = tracking.configure(), _artifact(record.digest(model.record))
    if mlflow.MlflowClient().list_artifacts(model.run_id, where):
        card.write_text(path, mlflow.artifacts.load_text(f"runs:/{model.run_id}/{where}/{path.name}"))


def _artifact(record_sha256: str) -> str:
    return f"signature-{record_sha256}"


def _signer(name: str, signature: str) -> Signer:
    signers = registry.ledger_here(name).signers or Signers("")
    for line in signers.lines:
        if weights_signature.is_by(signature, line.key) and line.key not in signers.revoked_keys:
            return line
    raise ValueError(
        f"{weights_signature.FILE} is by none of the signers of {name}, or by a key that was revoked; name the public "
        "key that you trust with --key, or have its owner signed in (`medseg signers add`)"
    )
