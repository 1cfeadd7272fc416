"""What other people call the modalities of a scan's channels."""

import re
from typing import Any

from model.network.config import MODALITIES

_SPELLINGS = {
    "MRI": "MR", "T1W": "T1", "T1N": "T1", "T1GD": "T1CE", "T1C": "T1CE", "T1POST": "T1CE", "T2W": "T2", "T2F": "FLAIR",
    "T2FLAIR": "FLAIR", "FLAIRW": "FLAIR", "PDW": "PD", "PT": "PET",
}  # fmt: skip


def modality_of(name: str) -> str | None:
    """One of the network's modalities; None if the name is none of them."""
    plain = re.sub(r"[^A-Z0-9]", "", name.upper())
    found = _SPELLINGS.get(plain, plain)
    return found if found in MODALITIES[1:] else None


def channels_by_name(names: Any, key: str) -> dict[int, str]:
    """An index's `{"0": "T1", "1": "FLAIR"}` as number -> modality. Raises ValueError with the name that is unknown.

    `key`: what the index calls it.
    """
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{key} must map names, it is {type(names).__name__}")
    found: dict[int, str] = {}
    for number, name in names.items():
        modality = modality_of(str(name))
        if modality is None or not str(number).isdigit():
            raise ValueError(f"channel {number!r} is called {name!r}; known are {', '.join(MODALITIES[1:])}")
        if modality in found.values():
            raise ValueError(f"two channels are called {name!r}; a modality can be there once")
        found[int(number)] = modality
    return found
