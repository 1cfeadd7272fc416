"""What the gate is asked about: a version's scores in every held-out scan, and what they are of.

measured(folder) -> Measured      from a dossier, whose files the version's record binds by sha256; never from tags
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.evaluation import evaluation_folder, tables
from pipelines.evaluation.score import Score
from pipelines.release import dossier


@dataclass(frozen=True)
class Measured:
    """`structures`: those that the weights' card names, each of which must have been measured. `left_out`: held-out
    case -> why it was not. `calibration_error`: the expected one, in the foreground. `origin`: commits of project and
    program.
    """

    scores: Sequence[Score]
    structures: Sequence[str]
    test_set_sha256: str
    left_out: Mapping[str, str] = field(default_factory=dict)
    calibration_error: float | None = None
    origin: Mapping[str, str] = field(default_factory=dict)


def measured(folder: Path) -> Measured:
    """Of a version whose dossier was found whole. Raises ValueError naming a file that is missing or unreadable."""
    record = read_json(folder / dossier.RECORD)
    metrics = read_json(folder / dossier.EVALUATION / evaluation_folder.METRICS)
    details = read_json(folder / dossier.EVALUATION / evaluation_folder.DETAILS)
    try:
        return Measured(
            tables.read(folder / dossier.EVALUATION / tables.PARQUET),
            tuple(record["structures"]),
            record["test_set_sha256"],
            metrics["left_out"],
            (details["calibration"] or {}).get("expected_error"),
            read_json(folder / dossier.ORIGIN),
        )
    except KeyError as error:
        raise ValueError(f"{folder}: no {error} in it; evaluate and register the version again") from None


def read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is missing or no JSON ({type(error).__name__}); register the version again") from None
