"""How a project declares structures of its own: lines of its structures.yaml, whose comments stay as they are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.scans import vocabulary
from pipelines.scans.structure import Structure
from pipelines.work import project
from pipelines.work.writing import replacing

FINDING = ["49755003", "Morphologically Abnormal Structure"]


def declare(
    name: str,
    synonyms: Sequence[str] = (),
    code: Sequence[str] | None = None,
    organ: str | None = None,
    side: str | None = None,
    parts: Sequence[str] = (),
) -> Structure:
    """Add one to the project's structures.yaml, under the next free id. Raises ValueError if it cannot be.

    `code`: [code, meaning] of SNOMED CT. `organ`: the structure that a finding lies in.
    """
    words, path = vocabulary.here(), project.root() / vocabulary.FILE
    if name in words:
        raise ValueError(f"{name} is there already, with id {words[name].id}")
    entry: dict[str, Any] = {"id": vocabulary.next_id(words.values())}
    if synonyms:
        entry["synonyms"] = list(synonyms)
    if code:
        entry["type"] = list(code)
    if organ:
        where = words[organ].type
        entry |= {"category": FINDING, "region": [where.value, where.scheme, where.meaning]}
    if side:
        entry["side"] = side
    if parts:
        entry["parts"] = list(parts)
    own = vocabulary.read(path) if path.is_file() else {}
    declared = vocabulary.extended(vocabulary.default(), {**own, name: entry}, vocabulary.FILE)[name]
    _append(path, name, entry)
    return declared


def records(about: str = "") -> list[dict[str, Any]]:
    """All structures as `medseg structures ls` shows them, or those whose name or synonyms hold these letters."""
    sought = about.lower().replace(" ", "_")
    return [
        {**each.to_json(), "own": each.id >= vocabulary.FIRST_OWN_ID}
        for each in sorted(vocabulary.here().values(), key=lambda each: each.id)
        if any(sought in name.replace(" ", "_") for name in (each.name, *each.synonyms))
    ]


def check() -> list[dict[str, Any]]:
    """The project's own structures. Raises ValueError naming what is wrong with its structures.yaml."""
    return [record for record in records() if record["own"]]


def _append(path: Path, name: str, entry: dict[str, Any]) -> None:
    text = (path if path.is_file() else project.SHIPPED / vocabulary.FILE).read_text(encoding="utf-8")
    inside = ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items())
    with replacing(path) as temporary:
        temporary.write_text(f"{text.rstrip()}\n{name}: {{{inside}}}\n", encoding="utf-8")
