"""Signatures of weights: ours and the OpenSSF's are one format, and no changed byte, file or key passes."""

import base64
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from pipelines.release import weights_signature

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of model_signing's own imports


def new_key(path: Path, *kind: str) -> Path:
    """An OpenSSH key pair, PATH and PATH.pub."""
    arguments = ["-q", "-N", "", "-C", "release@clinic", "-f", str(path), "-t", *(kind or ("ecdsa",))]
    subprocess.run(["ssh-keygen", *arguments], check=True)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"first")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"second")
    (folder / "model.safetensors.index.json").write_text("{}")
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return new_key(tmp_path / "key")


def public(key: Path) -> str:
    return key.with_suffix(".pub").read_text()


def in_pem(key: Path) -> Path:
    """The public half, as the OpenSSF's program reads it."""
    pem = serialization.load_ssh_public_key(key.with_suffix(".pub").read_bytes()).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    key.with_suffix(".pem").write_bytes(pem)
    return key.with_suffix(".pem")


@pytest.mark.parametrize("bits", ["256", "384", "521"])
def test_what_was_signed_holds(weights: Path, tmp_path: Path, bits: str) -> None:
    key = new_key(tmp_path / "other", "ecdsa", "-b", bits)
    signature = weights_signature.sign(weights, key, "m")
    weights_signature.verify(weights, signature, public(key))
    weights_signature.verify(weights, signature, in_pem(key).read_text())
    assert weights_signature.is_by(signature, public(key))


def test_the_openssf_program_takes_ours_and_we_take_its(weights: Path, tmp_path: Path) -> None:
    from model_signing import signing, verifying

    key = new_key(tmp_path / "other", "ecdsa", "-m", "PEM")
    ours, theirs = tmp_path / "ours.sig", tmp_path / "theirs.sig"
    ours.write_text(weights_signature.sign(weights, key, "m"))
    verifying.Config().use_elliptic_key_verifier(public_key=in_pem(key)).verify(weights, ours)
    signing.Config().use_elliptic_key_signer(private_key=key).sign(weights, theirs)
    weights_signature.verify(weights, theirs.read_text(), public(key))
    (weights / "model.safetensors.index.json").write_text("{ }")
    with pytest.raises(ValueError, match=r"index\.json"):
        verifying.Config().use_elliptic_key_verifier(public_key=in_pem(key)).verify(weights, ours)


def test_a_changed_a_missing_and_an_added_file_are_named(weights: Path, key: Path) -> None:
    signature = weights_signature.sign(weights, key, "m")
    first = weights / "model-00001-of-00002.safetensors"
    first.write_bytes(b"First")
    with pytest.raises(ValueError, match=f"{first} was changed since"):
        weights_signature.verify(weights, signature, public(key))
    first.unlink()
    with pytest.raises(ValueError, match=f"{first} is missing"):
        weights_signature.verify(weights, signature, public(key))
    first.write_bytes(b"first")
    (weights / "model.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.pkl was not signed"):
        weights_signature.verify(weights, signature, public(key))


def test_another_key_and_a_changed_statement_are_refused(weights: Path, key: Path, tmp_path: Path) -> None:
    signature = weights_signature.sign(weights, key, "m")
    other = public(new_key(tmp_path / "other"))
    assert not weights_signature.is_by(signature, other)
    with pytest.raises(ValueError, match="is not by this key"):
        weights_signature.verify(weights, signature, other)
    bundle = json.loads(signature)
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b'"m"', b'"n"')
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    with pytest.raises(ValueError, match="or was changed since"):
        weights_signature.verify(weights, json.dumps(bundle), public(key))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"verificationMaterial": {"publicKey": {"hint": "x"}}}'])
def test_what_is_no_signature_is_refused_in_words(weights: Path, key: Path, text: str) -> None:
    with pytest.raises(ValueError, match="is no signature of a model"):
        weights_signature.verify(weights, text, public(key))


def test_keys_of_other_kinds_are_refused_with_the_remedy(weights: Path, tmp_path: Path) -> None:
    key = new_key(tmp_path / "ed", "ed25519")
    with pytest.raises(ValueError, match="ssh-keygen -t ecdsa"):
        weights_signature.sign(weights, key, "m")
    with pytest.raises(ValueError, match="ssh-keygen -t ecdsa"):
        weights_signature.verify(weights, weights_signature.sign(weights, new_key(tmp_path / "ec"), "m"), public(key))
    assert not weights_signature.is_by(weights_signature.sign(weights, tmp_path / "ec", "m"), public(key))
    (tmp_path / "garbage").write_text("no key")
    with pytest.raises(ValueError, match="garbage is no private key"):
        weights_signature.sign(weights, tmp_path / "garbage", "m")


def test_a_passphrase_is_asked_for(weights: Path, key: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    private = serialization.load_ssh_private_key(key.read_bytes(), None)
    locked.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    monkeypatch.setattr("getpass.getpass", lambda question: "secret" if str(locked) in question else "")
    weights_signature.verify(weights, weights_signature.sign(weights, locked, "m"), public(key))
    monkeypatch.setattr("getpass.getpass", lambda question: "wrong")
    with pytest.raises(ValueError, match="locked is no private key that can be read"):
        weights_signature.sign(weights, locked, "m")
