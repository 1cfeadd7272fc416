"""A signature of weights that others can verify: OpenSSF model signing, with a key.

    sign(folder, key, "medsegformer") -> text         of model.sig, in the format of the OpenSSF's `model_signing`
    verify(folder, text, public_key)                  ValueError names the file that differs

An in-toto statement lists every file's sha256, a DSSE envelope carries it with an ECDSA signature, a Sigstore bundle
carries that. `model_signing verify key FOLDER --signature model.sig --public_key KEY.pem` takes ours and we take its
(a test holds both). The package itself is for tests alone: it brings 14 others, clients of Sigstore's servers among
them, for an ECDSA signature of a JSON text.

Keys are ECDSA ones (P-256, P-384, P-521), in PEM or in OpenSSH's format: `ssh-keygen -t ecdsa -f FILE` makes one.
"""

import base64
import getpass
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.work.digests import sha256_of

FILE = "model.sig"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_REMEDY = "model signing takes ECDSA keys; `ssh-keygen -t ecdsa -f FILE` makes one"


def sign(folder: Path, key: Path, name: str) -> str:
    """Of all files below `folder`. `key`: a private key; its passphrase is asked for on the terminal, if it has one."""
    from cryptography.hazmat.primitives.asymmetric import ec

    private = _private_key(key)
    payload = json.dumps(_statement(_digests(folder), name), sort_keys=True).encode()
    signature = private.sign(_to_sign(payload), ec.ECDSA(_hash(private.public_key())))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _PAYLOAD,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": _hint(private.public_key())}, "tlogEntries": []}
    return json.dumps({"mediaType": _BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}) + "\n"


def verify(folder: Path, signature: str, public_key: str) -> None:
    """Raises ValueError unless this key (PEM, or a line of OpenSSH's) signed exactly the files below `folder`."""
    statement = _signed_statement(signature, public_key)
    resources = statement["predicate"]["resources"]
    signed, found = {each["name"]: each["digest"] for each in resources}, _digests(folder)
    for name in sorted(signed.keys() | found.keys()):
        if signed.get(name) != found.get(name):
            what = (
                "is missing" if name not in found else "was not signed" if name not in signed else "was changed since"
            )
            raise ValueError(f"{folder / name} {what}; the signature of the weights does not hold")
    if statement["subject"][0]["digest"]["sha256"] != _root(signed):
        raise ValueError(f"{FILE}: its digest of all files is not that of the files it lists; sign the weights again")


def is_by(signature: str, public_key: str) -> bool:
    """Does the signature name this key? It need not be by it: ask `verify`."""
    try:
        return bool(_bundle(signature)["verificationMaterial"]["publicKey"]["hint"] == _hint(_public_key(public_key)))
    except ValueError:  # a key of another kind
        return False


def _signed_statement(signature: str, public_key: str) -> dict[str, Any]:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    key, envelope = _public_key(public_key), _bundle(signature)["dsseEnvelope"]
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        raw = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        key.verify(raw, _to_sign(payload), ec.ECDSA(_hash(key)))
        statement = json.loads(payload)
        told = envelope["payloadType"], statement["_type"], statement["predicateType"]
    except InvalidSignature:
        raise ValueError(f"{FILE} is not by this key, or was changed since") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise ValueError(f"{FILE} is no signature of a model; `medseg card sign` makes one") from None
    if told != (_PAYLOAD, _STATEMENT, _PREDICATE):
        raise ValueError(f"{FILE}: signed is {told[2]!r}, not a model ({_PREDICATE})")
    return dict(statement)


def _bundle(signature: str) -> dict[str, Any]:
    """Raises ValueError unless it has a bundle's parts."""
    try:
        bundle = dict(json.loads(signature))
        if isinstance(bundle["verificationMaterial"]["publicKey"]["hint"], str) and dict(bundle["dsseEnvelope"]):
            return bundle
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{FILE} is no signature of a model; `medseg card sign` makes one")


def _statement(digests: dict[str, str], name: str) -> dict[str, Any]:
    return {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": _root(digests)}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []},
            "resources": [
                {"name": path, "algorithm": "sha256", "digest": digest} for path, digest in sorted(digests.items())
            ],
        },
    }


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise ValueError(f"{folder} holds no file to sign; name the folder of the weights")
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def _root(digests: dict[str, str]) -> str:
    """Of the files' digests as bytes, in the order of their names."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in sorted(digests.items()))).hexdigest()


def _to_sign(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _private_key(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    text = path.read_bytes()
    is_openssh = b"BEGIN OPENSSH" in text
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        key = _opened(load, text, f"Passphrase of {path}: ")
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path} is no private key that can be read ({error}); {_REMEDY}") from None
    _hash(key.public_key(), str(path))
    return key


def _opened(load: Callable[..., Any], text: bytes, question: str) -> Any:
    try:
        return load(text, None)
    except TypeError:  # it has a passphrase
        return load(text, getpass.getpass(question).encode())


def _public_key(text: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    is_pem = "-----BEGIN" in text
    load = serialization.load_pem_public_key if is_pem else serialization.load_ssh_public_key
    try:
        key = load(text.strip().encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"no public key that can be read ({error}); {_REMEDY}") from None
    _hash(key)
    return key


def _hint(public_key: Any) -> str:
    """How a bundle names its key."""
    from cryptography.hazmat.primitives import serialization

    pem = public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _hash(public_key: Any, told_as: str = "the public key") -> Any:
    """The digest that goes with its curve. Raises ValueError if it has none of the format's curves."""
    from cryptography.hazmat.primitives import hashes

    known = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
    curve = getattr(getattr(public_key, "curve", None), "name", None)
    if curve not in known:
        raise ValueError(f"{told_as} is of another kind ({curve or type(public_key).__name__}); {_REMEDY}")
    return known[curve]
