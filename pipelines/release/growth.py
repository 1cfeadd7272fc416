"""How many training scans have come since the newest version was trained: what training by policy decides by.

    growth.since_newest() -> Growth(new=12, version="3")

A scan counts by its content, so one whose label was drawn anew counts as well, and one that only moved does not. What
the version was trained on is in its dossier.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pipelines import params
from pipelines.release import dossier, registry, tracking
from pipelines.scans import manifest
from pipelines.scans.manifest import TRAIN, Row
from pipelines.work import project


@dataclass(frozen=True)
class Growth:
    """`version`: the newest registered one, empty if there is none; all scans are new then."""

    new: int
    version: str

    @property
    def told(self) -> str:
        since = f"since version {self.version}" if self.version else "and no version yet"
        return f"{self.new} new training scans {since}"


def since_newest() -> Growth:
    """Of the manifest that lies here. Raises ValueError if the newest version's dossier is not to be had."""
    here = manifest.read(project.root() / project.MANIFEST)
    name = params.load().register_.name
    client = tracking.configure().MlflowClient()
    numbers = [int(each.version) for each in client.search_model_versions(f"name = '{name}'")]
    if not numbers:
        return Growth(count_new(here, []), "")
    newest = registry.find(f"models:/{name}/{max(numbers)}")
    return Growth(count_new(here, trained_on(newest.record_sha256, newest.run_id)), str(newest.version))


def trained_on(record_sha256: str, run_id: str) -> list[Row]:
    """The manifest of a version: all scans that it could know, those held out for it included."""
    return manifest.read(dossier.find(record_sha256, run_id, dossier.LINEAGE) / dossier.MANIFEST)


def count_new(now: Iterable[Row], then: Iterable[Row]) -> int:
    """Usable labelled training scans of `now` that are none of `then`'s."""
    return len(_contents(now) - _contents(then))


def _contents(rows: Iterable[Row]) -> set[tuple[str, ...]]:
    return {
        tuple(sorted(file.content for file in row.files))
        for row in rows
        if row.split == TRAIN and row.labels and not row.quarantined
    }
