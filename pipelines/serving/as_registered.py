"""A version's parts as its record names them, or why one of them is refused.

    weights = as_registered.weights_of(version)         folder, every byte checked
    known = as_registered.known_to(version)             what tells scans that are unlike its training scans

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
from pipelines.serving.familiarity import Familiarity, OtherCodeError

log = logging.getLogger(__name__)


def weights_of(version: RegisteredModel) -> Path:
    """Raises ValueError if they, what they say of themselves, or the manifest kept of the version are not its own."""
    folder, record = version.weights(), version.record
    card = weights_file.read_card(folder)
    for what, own in (("structures", list(card.classes)), ("identity", card.identity)):
        if record.get(what, own) != own:
            raise ValueError(
                f"{version.name} version {version.version}: {what} in its record and in its weights differ; register "
                "what was trained again"
            )
    kept = dossier.place(version.record_sha256) / dossier.MANIFEST
    if kept.is_file() and manifest.digest(kept) != record["manifest_sha256"]:
        raise ValueError(
            f"{kept} is not the manifest of the version's record; bring it back from a copy of the project"
        )
    return folder


def known_to(version: RegisteredModel, needed: bool = False) -> Familiarity:
    """Empty for a version that was registered without it or with other code, which is told, or refused if `needed`.

    Raises ValueError if the file is not the version's.
    """
    told = f"{version.name} version {version.version} cannot tell unfamiliar scans"
    try:
        if (file := dossier.evaluation_file(version.record, version.run_id, FAMILIARITY)) is None:
            raise OtherCodeError("it was evaluated before there was such a check; evaluate and register again")
        found = familiarity.read(file)
    except OtherCodeError as error:
        if needed:
            raise ValueError(f"{told}: {error}") from None
        log.warning("%s: %s", told, error)
        return Familiarity()
    if found.weights_sha256 != version.record["weights_sha256"]:
        raise ValueError(f"{file} is of other weights than the version's; evaluate and register again")
    return found
