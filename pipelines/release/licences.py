"""Under which licence is what a version was made of: its training data, source by source, and the packages it needs.

What nobody stated is unknown, and said so: silence would read as permission.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import yaml

UNKNOWN = "unknown"
PHANTOM = "phantom"  # begins the sources that this program makes itself
_LONGEST = 100  # characters of a licence's name; above it is the licence's text
_CLASSIFIER = "License :: "


@dataclass(frozen=True)
class SourceLicence:
    """`licence`: an identifier of SPDX, unless the project stated it in other words, or UNKNOWN. `told_by`: by whom."""

    source: str
    licence: str
    told_by: str

    @property
    def is_unknown(self) -> bool:
        return self.licence == UNKNOWN

    @property
    def forbids_commerce(self) -> bool:
        """As far as its name says."""
        return bool(re.search(r"\bNC\b|non-?commercial", self.licence, re.IGNORECASE))


def of_sources(sources: Iterable[str], stated: Mapping[str, str]) -> list[SourceLicence]:
    """`stated`: source -> licence, as release/card.yaml has it; it goes before what is published."""
    return [_of_source(source, stated) for source in sorted(sources)]


def _of_source(source: str, stated: Mapping[str, str]) -> SourceLicence:
    if source in stated:
        return SourceLicence(source, stated[source], "stated by this project")
    published = _published().get(PHANTOM if source.startswith(f"{PHANTOM}-") else source)
    if published is None:
        return SourceLicence(source, UNKNOWN, "state it under licences in release/card.yaml")
    return SourceLicence(source, published["licence"], published["of"])


@cache
def _published() -> dict[str, dict[str, str]]:
    return dict(yaml.safe_load(Path(__file__).with_name("licences.yaml").read_text()))


def of_package(told: metadata.PackageMetadata) -> tuple[str, bool]:
    """What a package says of itself, and whether that is an expression of SPDX."""
    if "License-Expression" in told:
        return told["License-Expression"], True
    classified = [
        each.rpartition(" :: ")[2] for each in told.get_all("Classifier") or () if each.startswith(_CLASSIFIER)
    ]
    if names := [name for name in classified if name != "OSI Approved"]:
        return ", ".join(names), False
    said = told["License"].strip() if "License" in told else ""
    return (said, False) if said and len(said) <= _LONGEST and "\n" not in said else (UNKNOWN, False)
