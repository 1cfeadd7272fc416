"""The ledger's statements in MLflow: as tags of the registered model, so that every machine that reads it has them.

    ledger.000007.0 = {"kind": "approval", ...            the first part; a tag's value holds 5,000 characters at most

Whoever may write tags may remove or change them: nothing here is believed before pipelines/release/ledger.py has
verified chain and signatures.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from pipelines.release.reading import NOT_THERE

PART = 4500  # characters
_KEY = re.compile(r"ledger\.(\d{6})\.(\d+)")


def read(client: Any, model: str) -> dict[int, str]:
    """Number -> text of every statement that the registered model carries; none if there is no such model."""
    parts: dict[int, dict[int, str]] = defaultdict(dict)
    for key, value in _tags(client, model).items():
        if found := _KEY.fullmatch(key):
            parts[int(found[1])][int(found[2])] = value
    return {number: "".join(text for _, text in sorted(each.items())) for number, each in sorted(parts.items())}


def write(client: Any, model: str, statements: Mapping[int, str]) -> list[int]:
    """Add those that the registered model, which exists, does not carry yet as they are; their numbers."""
    there = read(client, model)
    missing = [number for number, text in sorted(statements.items()) if there.get(number) != text]
    for number in missing:
        text = statements[number]
        for part, start in enumerate(range(0, len(text), PART)):
            client.set_registered_model_tag(model, _key(number, part), text[start : start + PART])
        for part in range(-(-len(text) // PART), -(-len(there.get(number, "")) // PART)):  # of another, longer text
            client.delete_registered_model_tag(model, _key(number, part))
    return missing


def _key(number: int, part: int) -> str:
    return f"ledger.{number:06d}.{part}"


def _tags(client: Any, model: str) -> dict[str, str]:
    found = model_of(client, model)
    return dict(found.tags) if found else {}


def model_of(client: Any, name: str) -> Any | None:
    """`client`: MLflow's, or a Reader."""
    try:
        return client.get_registered_model(name)
    except Exception as error:
        if getattr(error, "error_code", "") == NOT_THERE:
            return None
        raise
