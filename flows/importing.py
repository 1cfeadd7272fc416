"""`medseg data import DIR`: link a folder of scans and write the parameters that read it, once they were agreed to."""

import sys
from pathlib import Path
from typing import Any

from flows import lock
from pipelines.intake import raw_folder
from pipelines.params import profiles
from pipelines.params.block import ParamsError
from pipelines.params.schema import Params
from pipelines.questions import data_proposal
from pipelines.questions.data_proposal import Proposal


def outlook(folder: Path, profile: str | None, wished: list[str]) -> dict[str, Any]:
    """What would be written and what it would read. Keys: `folder`, `profile`, `changes`, `guessed`, `sources`,
    `unclaimed`, `dicom`. Raises ValueError if nothing can be read, or a change in `wished` is none."""
    proposal = data_proposal.propose(folder, _present())
    chosen, changes = profile or proposal.profile, [*proposal.changes, *wished]
    settings = profiles.outlook(chosen, changes)
    return {
        "folder": str(folder),
        "profile": chosen,
        "changes": changes,
        "guessed": _guessed(proposal, settings),
        "sources": [each.to_json() for each in data_proposal.found(folder, settings)],
        "unclaimed": data_proposal.unclaimed(folder),
        "dicom": data_proposal.dicom_files(folder),
    }


def require_terminal() -> None:
    """Raises ValueError where nobody could answer."""
    if not sys.stdin.isatty():
        raise ValueError("nobody can be asked here, as this is no terminal; --yes writes without asking")


def write(folder: Path, profile: str, changes: list[str]) -> Path | None:
    """Where a params.yaml of one's own was kept, or None. Raises ValueError if data/raw holds scans of its own."""
    with lock.held(doing="data import"):
        raw_folder.link(folder)
        return profiles.use(profile, changes)


def _present() -> Params | None:
    try:
        return profiles.outlook(None)
    except ParamsError:  # it is replaced
        return None


def _guessed(proposal: Proposal, settings: Params) -> dict[str, dict[str, str]]:
    """By source, what nobody said and the parameters will now hold."""
    guessed: dict[str, dict[str, str]] = {}
    for source, meanings in proposal.meanings.items():
        stated = settings.data.labels.get(source, {})
        guessed[source] = {name: meant for name, meant in meanings.items() if stated.get(name) == meant}
    for source, seen in proposal.modality.items():
        if list(settings.data.modality.get(source, ())) == seen:
            guessed.setdefault(source, {})["its images"] = seen[0]
    return {source: entries for source, entries in guessed.items() if entries}
