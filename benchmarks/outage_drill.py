"""MLflow away for most of a training, drilled: no point of a curve may be lost, and every command answers at once.

Run     python -m benchmarks.outage_drill [--steps 9000] [--away-min 10]        some 15 min on one core
Prints  how long each command took while the server was away, then the points logged and those that MLflow has.
        Exit code 1 if a point is missing or a command took more than 15 s.

The train stage on phantoms with a real MLflow server over HTTP, which gets SIGKILL a minute after the first step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.pipelines.release.mlflow_server import Server
from tests.pipelines.training.train_stage import prepare, told, training
from tests.test_pipeline import BIN, set_params

COMMANDS = (["status"], ["register"], ["run"], ["predict", "data/phantom", "out"], ["promote", "1"])
BOUND_S = 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--away-min", type=float, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        project = prepare(Path(scratch) / "project", arguments.steps)
        set_params(project, **{"model.preset": "nano", "train.micro_batch": 1})
        server = Server(Path(scratch))
        server.start()
        try:
            return drill(project, server, arguments.away_min)
        finally:
            server.kill()


def drill(project: Path, server: Server, away_min: float) -> int:
    placed = {"MLFLOW_TRACKING_URI": server.address, "MEDSEG_RANKS": "1", "MEDSEG_CHECKPOINT_S": "600"}
    logged: dict[str, None] = {}
    start = time.monotonic()
    with training(project, **placed) as process:
        while not logged:
            time.sleep(0.5)
            collect(project, logged)
        watch(project, logged, 60)
        server.kill()
        gone, slowest = time.monotonic(), 0.0
        print(f"MLflow is killed after {(gone - start) / 60:.1f} min, {len(logged)} points are logged", flush=True)
        for command in COMMANDS:
            seconds, line = answer(project, command, placed)
            slowest = max(slowest, seconds)
            print(f"  medseg {' '.join(command):<24} {seconds:5.1f} s: {line}", flush=True)
        watch(project, logged, away_min * 60 - (time.monotonic() - gone))
        if process.poll() == 0:
            raise ValueError("the training ended while MLflow was away: more --steps, or fewer --away-min")
        print(f"it comes back after {(time.monotonic() - gone) / 60:.1f} min, {len(logged)} points", flush=True)
        server.start()
        while process.poll() is None:
            time.sleep(0.05)
            collect(project, logged)
        if process.returncode:
            raise RuntimeError(told(project))
    print(f"training ended after {(time.monotonic() - start) / 60:.1f} min", flush=True)
    points = [json.loads(line) for line in logged]
    told_of = {(point["step"], name, value) for point in points for name, value in point["values"].items()}
    missing = told_of - in_mlflow(project, placed)
    print(f"{len(points)} points, {len(told_of)} figures, {len(missing)} missing; slowest answer {slowest:.1f} s")
    return 1 if missing or slowest > BOUND_S else 0


def watch(project: Path, logged: dict[str, None], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(1)
        collect(project, logged)


def collect(project: Path, logged: dict[str, None]) -> None:
    """Lines of the curves on their way: they go once MLflow has them all."""
    for file in project.glob(".medseg/curves/*/points.jsonl"):
        logged.update(dict.fromkeys(line for line in file.read_text().splitlines() if line.endswith("}")))


def answer(project: Path, command: list[str], placed: dict[str, str]) -> tuple[float, str]:
    environment = {**os.environ, **placed, "PYTHONPATH": str(project), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    start = time.monotonic()
    done = subprocess.run(["medseg", *command], cwd=project, env=environment, capture_output=True, text=True)
    lines = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
    return time.monotonic() - start, f"exit {done.returncode}, {len(lines)} line(s), the last: {lines[-1][:100]}"


def in_mlflow(project: Path, placed: dict[str, str]) -> set[tuple[int, str, float]]:
    """(step, metric, value) of all that the server holds."""
    os.environ.update(placed)
    os.chdir(project)
    from pipelines.release import tracking

    client = tracking.configure().MlflowClient()
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
    return {
        (each.step, name, each.value)
        for run in client.search_runs([experiment])
        for name in run.data.metrics
        for each in client.get_metric_history(run.info.run_id, name)
    }


if __name__ == "__main__":
    sys.exit(main())
