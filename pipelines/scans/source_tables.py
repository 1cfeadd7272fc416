"""What parameters state by source."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def by_source(table: Mapping[str, T], source: str) -> T:
    """The entry for `source`, for its layout (`phantom-acdc` is of `acdc`, `msd-liver` of `msd`), or the default."""
    plain = source.removeprefix("phantom-")
    for key in (source, plain, plain.partition("-")[0]):
        if key in table:
            return table[key]
    return table["default"]
