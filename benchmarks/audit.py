"""The audit log when it is long: what an append costs, how fast it is verified and read.

Run     python -m benchmarks.audit [--lines 1000000]       # about 20 s, and 480 MB in the folder for temporary files
Prints  a row per figure, with what is aimed at

The lines are as predictions leave them. An append is measured with its fsync, so the disk is, too: what the disk alone
takes for as many bytes is told beside. `verify` and `read` are one process on one core.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from statistics import median, quantiles

from pipelines.release import audit
from pipelines.release.canonical import NOTHING

APPENDS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    count = parser.parse_args().lines
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("dvc.yaml").write_text("stages: {}\n")
        fill(count)
        print(f"{count:,} lines, {audit.path().stat().st_size / 1e6:.0f} MB\n\n| | measured | aim |\n|---|---:|---:|")
        with Path("bare").open("ab", buffering=0) as bare:
            costs = [(cost_ms(lambda: audit.append("predict", **facts(0))), cost_ms(lambda: to_disk(bare)))
                     for _ in range(APPENDS)]  # fmt: skip
        ours, disk = ([each[which][0] for each in costs] for which in (0, 1))
        print(f"| append, median | {median(ours):.2f} ms | 5 ms |")
        print(f"| append, 99 of 100 | {quantiles(ours, n=100)[98]:.2f} ms | 5 ms |")
        print(f"| a bare write of as much, with fsync, median | {median(disk):.2f} ms | |")
        print(f"| a bare write of as much, with fsync, 99 of 100 | {quantiles(disk, n=100)[98]:.2f} ms | |")
        print(f"| append, CPU time | {sum(each[0][1] for each in costs) / APPENDS:.2f} ms | |")
        print(f"| verify | {rate(lambda: audit.verify().lines):,.0f} lines/s | 100,000 lines/s |")
        print(f"| read one event of it | {rate(lambda: read('evaluate')):,.0f} lines/s | |")
        print(f"| read all | {rate(lambda: read('predict')):,.0f} lines/s | |")


def fill(count: int) -> None:
    """What `count` appends would have written, without their fsync."""
    audit.append("ingest")
    sha256 = audit.head().sha256
    with audit.path().open("ab") as log:
        for number in range(2, count + 1):
            line, sha256 = audit._line("predict", facts(number), number, sha256)
            log.write(line + b"\n")


def facts(number: int) -> dict[str, object]:
    return {"record_sha256": NOTHING, "inputs": [f"{number:064x}"], "outputs": [f"{number:064x}"]}


def read(event: str) -> int:
    for _ in audit.read((event,)):
        pass
    return audit.head().lines


def rate(work: Callable[[], int]) -> float:
    begun = time.process_time()
    return work() / (time.process_time() - begun)


def cost_ms(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of the processor."""
    begun = time.perf_counter(), time.process_time()
    work()
    return 1e3 * (time.perf_counter() - begun[0]), 1e3 * (time.process_time() - begun[1])


def to_disk(file: FileIO) -> None:
    file.write(b"x" * 475)
    os.fsync(file)


if __name__ == "__main__":
    main()
