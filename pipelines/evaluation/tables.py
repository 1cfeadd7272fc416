"""The scores of an evaluation as files: cases.parquet for programs, cases.csv for whoever opens it."""

import csv
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.evaluation.score import Score, of_record
from pipelines.scans import parquet

PARQUET, CSV = "cases.parquet", "cases.csv"
_TYPES: dict[Any, pa.DataType] = {
    float: pa.float64(),
    int: pa.int64(),
    str: pa.string(),
    bool: pa.bool_(),
    tuple[float, ...]: pa.list_(pa.float64()),
}
SCHEMA = pa.schema([(field.name, _TYPES.get(field.type, pa.string())) for field in fields(Score)])


def write(folder: Path, scores: Sequence[Score]) -> None:
    """Both files. One row a structure and case; an empty cell: no value."""
    rows = [score.to_json() for score in scores]
    pq.write_table(parquet.table_of(rows, SCHEMA), folder / PARQUET)
    with (folder / CSV).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(SCHEMA.names)
        writer.writerows([[_cell(row[name]) for name in SCHEMA.names] for row in rows])


def read(path: Path) -> list[Score]:
    """Of a cases.parquet. Raises ValueError if it is none."""
    try:
        rows = pq.ParquetFile(path).read().to_pylist()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; evaluate first") from None
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no table of scores ({str(error).splitlines()[0]}); evaluate again") from None
    try:
        return [of_record(row) for row in rows]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _cell(value: Any) -> Any:
    """Lists with semicolons; six digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return ";".join(f"{each:.6g}" for each in value) if isinstance(value, list) else value
