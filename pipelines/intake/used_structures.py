"""Which structures the scans of a project mean, from names alone: what its results depend on of the vocabulary."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines import params
from pipelines.scans import vocabulary
from pipelines.scans.contracts import CONTRACTS, contract_of
from pipelines.sources import phantom, readers
from pipelines.work import project


def structures_meant(paths: Sequence[str], folder: Path, data: params.Data) -> dict[str, Any]:
    """Their records by name, with the parts of unions and the unions of them all.

    A DICOM label may name any structure, so with `dicom` among the sources it is all of them.
    """
    words = vocabulary.here()
    if "dicom" in data.sources:
        return words.records(words)
    asked = [find for name, find in readers().items() if name in data.sources]
    scans = [scan for find in asked for scan in find(paths, folder, data.labels)]
    contracts = {contract for scan in scans for contract in scan.labels.values() if contract}
    meant = {name for contract in contracts for name in contract_of(contract).annotated}
    if "phantom" in data.sources:
        meant |= {name for layout in phantom.LAYOUTS for name in CONTRACTS[layout].annotated}
    return words.records(meant)


def changed() -> bool:
    """Would `inventory` write other structures than it has? Asked of names again only if a vocabulary changed.

    Raises ValueError if structures.yaml cannot be used.
    """
    root, memory = project.root(), project.state_folder() / "structures-unchanged"
    written = root / project.STRUCTURES
    if not written.is_file():
        return True
    own = root / vocabulary.FILE
    files = [path.read_bytes() for path in (vocabulary.DEFAULT, own, written) if path.is_file()]
    seen = hashlib.sha256(b"\0".join(files)).hexdigest()
    if memory.is_file() and memory.read_text() == seen:
        return False
    if _now(root) != json.loads(written.read_text()):
        return True
    memory.write_text(seen)
    return False


def _now(root: Path) -> dict[str, Any]:
    from pipelines.intake.listing import walk

    raw = root / project.RAW
    found = [path.relative_to(raw).as_posix() for path, problem in walk(raw) if not problem] if raw.is_dir() else []
    paths = sorted(path for path in found if path.isprintable())
    return structures_meant(paths, raw, params.load(root / "params.yaml").data)
