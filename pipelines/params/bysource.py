"""Parameters that are stated by source: types, and the check that there is a default."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

LAYOUTS = ("msd", "acdc", "brats", "kits", "lits", "bids", "nnunet", "totalsegmentator", "flare", "pairs", "dicom")

Spacing = Annotated[float, Field(gt=0, le=100)]
Spacing3 = tuple[Spacing, Spacing, Spacing]
Voxels = Annotated[int, Field(ge=8, le=1024)]
Voxels3 = tuple[Voxels, Voxels, Voxels]


def _or_auto(value: Any) -> Any:
    """`auto` -> None: the plan decides. A list becomes the tuple that strict validation asks for from here on."""
    if value == "auto":
        return None
    return tuple(value) if isinstance(value, list) else value


OR_AUTO = BeforeValidator(_or_auto)


def check_by_source(key: str, table: dict[str, Any]) -> None:
    if "default" not in table:
        raise ValueError(f"{key} has no entry `default`; add `default: ...` beside {sorted(table)}")
    check_sources(key, [name for name in table if name != "default"], "`default`, ")


def check_sources(key: str, names: Iterable[str], also: str = "") -> None:
    """Raises ValueError if one is neither a layout nor a data set of one. `also`: what else the table may hold."""
    if unknown := sorted(name for name in names if name.partition("-")[0] not in LAYOUTS):
        raise ValueError(
            f"{key}: unknown source {unknown[0]!r}; use {also}a layout ({', '.join(LAYOUTS)}), or one of its data "
            "sets, as in `msd-liver`"
        )
