"""What Prefect costs a stage, over bare DVC, with a server that runs already.

Run     python -m benchmarks.orchestration [--count 5]        about 3 min on 2 cores
Prints  of bare `dvc repro && medseg register` and of `medseg run`: seconds and processor seconds of a run in which all
        stages after the inventory are stale, and of one in which none is, medians; the server's own are added to both.
        Then what a stage costs more: the difference of the differences, by stage. The load says what the seconds are
        worth.

The stages are a toy's, so nearly all that is measured is DVC and Prefect; both run the same dvc.yaml in one project.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from tests.flows.conftest import Project, make_toy, start_ui

STAGES = 5  # ingest, preprocess, train, evaluate, register
DVC, MEDSEG = ("sh", "-c", "python -m dvc repro && medseg register"), ("medseg", "run")  # both make a version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as scratch:
        project = make_toy(Path(scratch) / "project")
        ui = start_ui(project)
        try:
            costs = {command: measured(project, command, count) for command in (DVC, MEDSEG)}
        finally:
            ui.terminate()
            ui.wait(timeout=60)
    for command, (stale, fresh) in costs.items():
        print(f"{command[-1]:40} all stale {shown(stale)}    none stale {shown(fresh)}")
    (dvc_stale, dvc_fresh), (our_stale, our_fresh) = costs.values()
    more = [(a - b - (c - d)) / STAGES for a, b, c, d in zip(our_stale, our_fresh, dvc_stale, dvc_fresh, strict=True)]
    print(f"a stage costs {more[0]:.2f} s, {more[1]:.2f} CPU-s more; load {os.getloadavg()[0]:.1f}")


def measured(project: Project, command: tuple[str, ...], count: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """(seconds, CPU-seconds) with all stages stale, and with none; medians."""
    once(project, command)
    stale, fresh = [], []
    for number in range(count):
        project.write("data/raw/a", f"{command} {number}")
        stale.append(once(project, command))
        fresh.append(once(project, command))
    return median(stale), median(fresh)


def once(project: Project, command: tuple[str, ...]) -> tuple[float, float]:
    begun, used = time.monotonic(), cpu_s(project)
    ended = project.call(*command, timeout_s=900)
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    return time.monotonic() - begun, cpu_s(project) - used


def cpu_s(project: Project) -> float:
    """Of all children that ended, and of the servers."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    servers = [each.cpu_times() for each in psutil.process_iter() if of_server(each, project.root)]
    return used.ru_utime + used.ru_stime + sum(times.user + times.system for times in servers)


def of_server(process: psutil.Process, root: Path) -> bool:
    try:
        return "flows.door" in process.cmdline() and process.cwd() == str(root)
    except psutil.Error:
        return False


def median(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
    return wall, cpu


def shown(cost: tuple[float, float]) -> str:
    return f"{cost[0]:6.2f} s {cost[1]:6.2f} CPU-s"


if __name__ == "__main__":
    main()
