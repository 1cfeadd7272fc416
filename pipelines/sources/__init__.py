"""Readers of original layouts: each turns file names into `Scan` records, nothing more.

A reader looks at names (and at a small index file where the layout has one), never at voxels; ingest checks those.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Scan:
    """What a layout says about one scan.

    `patient`, `key`: the layout's own ids of patient and scan; they end in ingest, as pseudonyms.
    `images`: modality -> path relative to the raw folder, POSIX. `label`: likewise, or None if unlabelled.
    `contract`: name of the label contract. `problem`: why it cannot be used, if the names already tell.
    """

    source: str
    patient: str
    key: str
    images: dict[str, str]
    label: str | None
    contract: str
    problem: str = ""


Reader = Callable[[Sequence[str], Path], Iterator[Scan]]


def readers() -> dict[str, Reader]:
    """Every layout that is read from files, by name."""
    from pipelines.sources import acdc, brats, kits, msd

    return {"msd": msd.find, "acdc": acdc.find, "brats": brats.find, "kits": kits.find}


def group(files: Sequence[str], pattern: str) -> dict[str, dict[str, list[str]]]:
    """Files matching `pattern` (groups `case` and `role`) as case -> role -> paths, both sorted."""
    found: dict[str, dict[str, list[str]]] = {}
    expression = re.compile(pattern)
    for path in sorted(files):
        if match := expression.search(path):
            found.setdefault(match["case"], {}).setdefault(match["role"], []).append(path)
    return found


def ambiguous(roles: dict[str, list[str]]) -> str:
    """The problem when one role has two files (x.nii beside x.nii.gz: readers differ in which they take)."""
    for paths in roles.values():
        if len(paths) > 1:
            return f"{paths[0]} and {Path(paths[1]).name} both lie there; keep one"
    return ""
