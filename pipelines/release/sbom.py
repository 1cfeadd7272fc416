"""The bill of materials of a version: CycloneDX 1.6, as JSON.

    sbom.make(record, licences.of_sources(...)) -> dict      written as sbom.cdx.json beside the card

Lists the weights by sha256, every source of training data with its licence, and every package that the program needs
here, with version, licence and whether a lock pins it; the lock, told by its own sha256, has those of every package's
files. The same environment gives the same text: it holds no time, and its serial number is of its content.
"""

import json
import platform
import re
import uuid
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines.release import licences, run_identity
from pipelines.release.licences import SourceLicence
from pipelines.work.digests import sha256_of

FILE = "sbom.cdx.json"
PROGRAM = "medsegformer"
LOCKS = ("requirements.lock", "requirements-gpu.lock")
_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, _SCHEMA)
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", re.MULTILINE)
_SPDX = re.compile(r"(Apache|CC-BY(-NC)?(-SA)?)-\d\.\d")  # the forms that licences.yaml has


def make(record: Mapping[str, Any], sources: Sequence[SourceLicence]) -> dict[str, Any]:
    """`record`: of the version. Raises ValueError if a package that is needed is not installed."""
    packages = _packages()
    locks = [path for path in (run_identity.HERE / name for name in LOCKS) if path.is_file()]
    locked = {pin for path in locks for pin in _pins(path)}
    data = [f"data:{each.source}" for each in sources]
    depends = {name: [f"package:{other}" for other in others] for name, (_, others) in packages.items()}
    content = {
        "$schema": _SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": _model(record),
            "properties": [_property(f"sha256 of {path.name}", sha256_of(path)) for path in locks],
        },
        "components": [
            *(_with_lock(told, locked) for told, _ in packages.values()),
            {"type": "platform", "bom-ref": "python", "name": "CPython", "version": platform.python_version()},
            *map(_data, sources),
        ],
        "dependencies": [
            {"ref": "model", "dependsOn": [*data, f"package:{PROGRAM}", "python"]},
            *({"ref": f"package:{name}", "dependsOn": sorted(others)} for name, others in depends.items()),
        ],
    }
    serial = uuid.uuid5(_NAMESPACE, json.dumps(content, sort_keys=True))
    return {**content, "serialNumber": f"urn:uuid:{serial}"}


def packages_by_licence(bill: Mapping[str, Any]) -> dict[str, list[str]]:
    """Of a bill: licence -> names, the most frequent first."""
    found: dict[str, list[str]] = {}
    for each in bill["components"]:
        if each["type"] == "library":
            (licence,) = each["licenses"]
            found.setdefault(licence.get("expression") or licence["license"]["name"], []).append(each["name"])
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


@lru_cache(maxsize=1)  # a process keeps its environment, and takes half a second to read it
def _packages() -> dict[str, tuple[dict[str, Any], set[str]]]:
    """What is told of every package that is needed to run, by name, with the names of those that it needs itself."""
    return {name: (_package(name, found), others) for name, (found, others) in sorted(_needed(PROGRAM))}


def _needed(program: str) -> Iterator[tuple[str, tuple[metadata.Distribution, set[str]]]]:
    """Every package that is needed to run, by name, with the names of those that it needs itself."""
    seen: set[tuple[str, str]] = set()
    found: dict[str, tuple[metadata.Distribution, set[str]]] = {}
    waiting = [(program, "")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        distribution = _distribution(name)
        others = found.setdefault(name, (distribution, set()))[1]
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                other = canonicalize_name(requirement.name)
                others.add(other)
                waiting += [(other, wanted) for wanted in ("", *requirement.extras)]
    yield from found.items()


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise ValueError(f"{name} is needed and not installed; make the environment anew (`make`, or pip)") from None


def _package(name: str, found: metadata.Distribution) -> dict[str, Any]:
    licence, is_expression = licences.of_package(found.metadata)
    return {
        "type": "library",
        "bom-ref": f"package:{name}",
        "name": name,
        "version": found.version,
        "licenses": [{"expression": licence} if is_expression else {"license": {"name": licence}}],
        "purl": f"pkg:pypi/{name}@{found.version.replace('+', '%2B')}",
    }


def _with_lock(told: Mapping[str, Any], locked: Container[tuple[str, str]]) -> dict[str, Any]:
    pinned = (told["name"], told["version"]) in locked
    return {**told, "properties": [_property("locked", str(pinned).lower())]}


def _pins(lock: Path) -> Iterator[tuple[str, str]]:
    """(name, version), of a lock in a checkout; an installed program has none."""
    for pin in _PIN.finditer(lock.read_text()):
        yield canonicalize_name(pin[1]), pin[2]


def _model(record: Mapping[str, Any]) -> dict[str, Any]:
    files = record["weights_files"]
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": record["name"],
        "version": record["weights_sha256"],
        "components": [
            {"type": "file", "bom-ref": f"weights:{name}", "name": name, "hashes": [_sha256(sha256)]}
            for name, sha256 in sorted(files.items())
        ],
    }


def _data(source: SourceLicence) -> dict[str, Any]:
    is_spdx = _SPDX.fullmatch(source.licence)
    return {
        "type": "data",
        "bom-ref": f"data:{source.source}",
        "name": source.source,
        "description": source.told_by,
        "licenses": [{"license": {"id" if is_spdx else "name": source.licence}}],
    }


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"{PROGRAM}:{name}", "value": value}


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}
