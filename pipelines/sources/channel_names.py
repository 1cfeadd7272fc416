"""What an index says that a scan's channels show."""

from typing import Any

from pipelines.scans import modalities


def channels_by_name(names: Any, key: str) -> dict[int, str]:
    """An index's `{"0": "T1", "1": "FLAIR"}` as number -> modality. Raises ValueError with the name that is unknown.

    `key`: what the index calls it.
    """
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{key} must map names, it is {type(names).__name__}")
    found: dict[int, str] = {}
    known = modalities.here()
    for number, name in names.items():
        modality = known.find(str(name))
        if modality is None or not str(number).isdigit():
            raise ValueError(f"channel {number!r} is called {name!r}; {known.remedy(str(name))}")
        if modality in found.values():
            raise ValueError(f"two channels are called {name!r}; a modality can be there once")
        found[int(number)] = modality
    return found
