"""A version's parts as its record names them, or why one of them is refused.

    weights = as_registered.weights(version)            folder, every byte checked
    known = as_registered.known(version)                what tells scans that are unlike its training scans

The record is the version: its digest is in the registry, and for released ones in the signed ledger. Code and settings
are held to it by pipelines/serving/conditions.py.
"""

import logging
from pathlib import Path

from model import weights_file
from pipelines.release import dossier
from pipelines.release.record import FAMILIARITY
from pipelines.release.registry import RegisteredModel
from pipelines.scans import manifest
from pipelines.serving import familiarity
from pipelines.serving.familiarity import Familiarity

log = logging.getLogger(__name__)


def weights(version: RegisteredModel) -> Path:
    """Raises ValueError if they, what they say of themselves, or the manifest kept of the version are not its own."""
    folder, record = version.weights(), version.record
    card = weights_file.read_card(folder)
    for what, own in (("structures", list(card.classes)), ("identity", card.identity)):
        if record.get(what, own) != own:
            raise ValueError(
                f"the record of {version.name} version {version.version} names another {what} than its weights do; "
                "register what was trained again"
            )
    kept = dossier.place(version.record_sha256) / dossier.MANIFEST
    if kept.is_file() and manifest.digest(kept) != record["manifest_sha256"]:
        raise ValueError(
            f"{kept} is not the manifest of the version's record; bring it back from a copy of the project"
        )
    return folder


def known(version: RegisteredModel) -> Familiarity:
    """Empty for a version that was registered without it, which is told. Raises ValueError if it is another's."""
    file = dossier.evaluation_file(version.record, version.run_id, FAMILIARITY)
    if file is None:
        log.warning(
            "%s version %s cannot tell unfamiliar scans: evaluate and register again", version.name, version.version
        )
        return Familiarity()
    found = familiarity.read(file)
    if found.weights_sha256 != version.record["weights_sha256"]:
        raise ValueError(f"{file} is of other weights than the version's; evaluate and register again")
    return found
