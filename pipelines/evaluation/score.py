"""One structure in one case, measured: the row that tables, statistics, reports and files for other programs share."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Status = Literal["scored", "missed", "invented", "absent"]
NOTHING = float("nan")


@dataclass(frozen=True)
class Subject:
    """What all rows of a case share. `patient`: a pseudonym; `slice_mm`: the largest spacing; "" where not known."""

    case_id: str
    patient: str
    source: str = ""
    modality: str = ""
    site: str = ""
    scanner: str = ""
    slice_mm: float = NOTHING


@dataclass(frozen=True)
class Score(Subject):
    """`status`: both have it, the reference alone (missed), the prediction alone (invented), neither (absent).

    `cut`: the reference reaches the border of the scan, so that part of it may be missing. `border_share`: of the
    reference's voxels those that have a neighbour outside it: how much a shift by one voxel would change.
    `diagonal_mm`: of the image, the worst distance there is. NaN: no value (definitions.py).
    """

    structure: str = ""
    status: Status = "absent"
    cut: bool = False
    dice: float = NOTHING
    surface_dice: float = NOTHING
    hd95_mm: float = NOTHING
    mean_surface_mm: float = NOTHING
    volume_error_percent: float = NOTHING
    reference_ml: float = 0.0
    predicted_ml: float = 0.0
    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    true_negatives: int = 0
    border_share: float = NOTHING
    diagonal_mm: float = NOTHING
    lesions: int = 0
    lesions_found: int = 0
    lesions_invented: int = 0
    lesion_sensitivity: float = NOTHING
    lesion_precision: float = NOTHING
    lesion_f1: float = NOTHING
    lesions_ml: tuple[float, ...] = ()
    lesions_found_ml: tuple[float, ...] = ()
    confidence: float = NOTHING
    flip_dice: float = NOTHING

    @property
    def present(self) -> bool:
        return self.status != "absent"

    def to_json(self) -> dict[str, Any]:
        """NaN is no JSON: None."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def of_record(record: Mapping[str, Any]) -> Score:
    """The other way. Raises ValueError if a column is missing."""
    missing = [field.name for field in fields(Score) if field.name not in record]
    if missing:
        raise ValueError(f"no column {', '.join(missing[:3])}; it was written by another version: evaluate again")
    return Score(**{field.name: _typed(field.name, record[field.name]) for field in fields(Score)})


def structures_of(scores: Iterable[Score]) -> list[str]:
    """In the order they were measured in."""
    return list(dict.fromkeys(score.structure for score in scores))


def _typed(name: str, value: Any) -> Any:
    if name.endswith("_ml") and name.startswith("lesions"):
        return tuple(value if value is not None else ())
    return NOTHING if value is None else value


def _plain(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    return list(value) if isinstance(value, tuple) else value
