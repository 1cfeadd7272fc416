"""Which structures and modalities the scans of a project mean, from names alone: what its results depend on of both
vocabularies.

    for path, content in used_structures.of_scans(paths, folder, data).items(): ...       what inventory writes, by file
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipelines import params
from pipelines.scans import modalities, vocabulary
from pipelines.scans.contracts import CONTRACTS, contract_of
from pipelines.sources import Scan, phantom, readers
from pipelines.work import project

WRITTEN = (project.STRUCTURES, project.MODALITIES)


def of_scans(paths: Sequence[str], folder: Path, data: params.Data) -> dict[Path, dict[str, Any]]:
    asked = [find for name, find in readers().items() if name in data.sources]
    scans = [scan for find in asked for scan in find(paths, folder, data.labels)]
    return {project.STRUCTURES: structures_meant(scans, data), project.MODALITIES: modalities_meant(scans, data)}


def structures_meant(scans: Sequence[Scan], data: params.Data) -> dict[str, Any]:
    """Their records by name, with the parts of unions and the unions of them all.

    A DICOM label may name any structure, so with `dicom` among the sources it is all of them.
    """
    words = vocabulary.here()
    if "dicom" in data.sources:
        return words.records(words)
    contracts = {contract for scan in scans for contract in scan.labels.values() if contract}
    meant = {name for contract in contracts for name in contract_of(contract).annotated}
    if "phantom" in data.sources:
        meant |= {name for layout in phantom.LAYOUTS for name in CONTRACTS[layout].annotated}
    return words.records(meant)


def modalities_meant(scans: Sequence[Scan], data: params.Data) -> dict[str, Any]:
    """Records by name: of the default, and of the project's own those that a channel shows."""
    known, told = modalities.here(), {name for shown in data.modality.values() for name in shown}
    used = told | {name for scan in scans for name in scan.images}
    return {name: known[name].to_json() for name in known if name in used or name in modalities.default()}


def changed() -> bool:
    """Would `inventory` write other structures or modalities than it has? Asked of names again only if a vocabulary
    changed.

    Raises ValueError if structures.yaml or modalities.yaml cannot be used.
    """
    root, memory = project.root(), project.state_folder() / "structures-unchanged"
    written = [root / path for path in WRITTEN]
    if not all(path.is_file() for path in written):
        return True
    said = [path for each in (vocabulary, modalities) for path in (each.DEFAULT, root / each.FILE)]
    digests = [(path.name, sha256(path.read_bytes()).hexdigest()) for path in (*said, *written) if path.is_file()]
    seen = sha256(repr(digests).encode()).hexdigest()
    if memory.is_file() and memory.read_text() == seen:
        return False
    if _now(root) != {path: json.loads((root / path).read_text()) for path in WRITTEN}:
        return True
    memory.write_text(seen)
    return False


def _now(root: Path) -> dict[Path, dict[str, Any]]:
    from pipelines.intake.listing import walk

    raw = root / project.RAW
    found = [path.relative_to(raw).as_posix() for path, problem in walk(raw) if not problem] if raw.is_dir() else []
    paths = sorted(path for path in found if path.isprintable())
    return of_scans(paths, raw, params.load(root / "params.yaml").data)
