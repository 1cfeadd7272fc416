"""Tables without pandas: the same as pyarrow makes with it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.intake.listing import SCHEMA
from pipelines.scans import parquet

ROWS = [
    {"path": "a/Schädel \U0001f9e0.nii.gz", "bytes": 2**60 + 1, "sha256": "2026-01-01T00:00:00", "problem": ""},
    {"path": 'b\\u00e9"\\n', "bytes": 0, "sha256": "12", "problem": "a link that leads out of the folder"},
]


def test_a_table_of_rows_is_as_pyarrow_makes_it_to_the_byte(tmp_path: Path) -> None:
    for number, rows in enumerate([ROWS, [], ROWS * 20_000]):
        made = [tmp_path / f"ours-{number}.parquet", tmp_path / f"theirs-{number}.parquet"]
        pq.write_table(parquet.table_of(rows, SCHEMA), made[0])
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), made[1])
        assert made[0].read_bytes() == made[1].read_bytes()
        assert parquet.read(made[0], SCHEMA).to_pylist() == rows


def test_numbers_keep_every_bit() -> None:
    draw = np.random.default_rng(0)
    numbers = draw.integers(0, 2**64, 10_000, np.uint64, endpoint=False).view(np.float64)
    finite = [float(number) for number in numbers if np.isfinite(number)]
    schema = pa.schema([("one", pa.float64()), ("several", pa.list_(pa.float64()))]).with_metadata({b"key": b"kept"})
    rows = [{"one": one, "several": [one, -0.0]} for one in (*finite, 5e-324, -0.0)]
    rows += [{"one": None, "several": []}, {"one": float("inf"), "several": None}]
    table = parquet.table_of(rows, schema)
    assert table.equals(pa.Table.from_pylist(rows, schema), check_metadata=True)
    assert str(table.to_pylist()) == str(rows)  # of 0.0 the sign as well


def test_a_column_that_an_older_file_lacks_is_empty(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sha256": ["12"], "path": ["a"], "other": [1.0]}), tmp_path / "older.parquet")
    assert parquet.read(tmp_path / "older.parquet", SCHEMA).to_pylist() == [
        {"path": "a", "bytes": None, "sha256": "12", "problem": None}
    ]


def test_listing_a_folder_imports_no_pandas(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii.gz").write_bytes(b"a")
    script = (
        "import sys; from pathlib import Path; import pyarrow.parquet as pq; from pipelines.intake import listing\n"
        "from pipelines.scans import parquet; here = Path(sys.argv[1])\n"
        "pq.write_table(listing.take(here / 'scans', here / 'digests.sqlite'), here / 'table.parquet')\n"
        "parquet.read(here / 'table.parquet', listing.SCHEMA); sys.exit('pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
