"""Which structures the scans of a project mean, from names alone: what its results depend on of the vocabulary."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines import params
from pipelines.scans import vocabulary
from pipelines.scans.contracts import CONTRACTS, contract_of
from pipelines.sources import phantom, readers


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
