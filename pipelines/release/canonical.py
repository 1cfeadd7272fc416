"""One spelling for one content: what is hashed, chained and signed here is JSON written in this way."""

import hashlib
import json
from typing import Any

NOTHING = "0" * 64  # the sha256 that the first link of a chain names as the one before


def text(content: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII only. Raises ValueError for NaN and infinity, which JSON has not."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(content: Any) -> str:
    """sha256 of that spelling, in hexadecimal digits."""
    return hashlib.sha256(text(content).encode()).hexdigest()
