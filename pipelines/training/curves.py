"""Curves of a training run: on disk at once, in MLflow by a thread that never holds up a step.

    .medseg/curves/RUN/points.jsonl      a line a step, written as it happens
    .medseg/curves/RUN/run.json          what the run is, and how much of it MLflow has
    .medseg/curves/RUN/end.json          its tags, once it ended, with pictures/ beside

However long MLflow is away, nothing is lost: the thread asks again, for weeks if need be, and what is left when a run
ends is delivered by `deliver_all`, which every registration calls. A point that is sent twice counts once.
"""

import json
import logging
import math
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.release.tracking import EXPERIMENT, configure, log_all
from pipelines.work import project
from pipelines.work.writing import write_json

log = logging.getLogger(__name__)

FLUSH_EVERY_S = 5.0
LONGEST_PAUSE_S = 60.0  # between two attempts while MLflow is away
ROOM_AGAIN_S = 1.0  # between two looks whether a full disk has room
PATIENCE_S = 60.0  # of a run that has ended and whose curves are not delivered yet
BATCH = 1000  # points that are read at a time


@dataclass
class Delivery:
    """A run's way to MLflow. `bytes`: of points.jsonl that MLflow has."""

    stage: str
    parameters: dict[str, str]
    run_id: str | None = None
    bytes: int = 0

    @staticmethod
    def read(folder: Path) -> "Delivery":
        return Delivery(**json.loads((folder / "run.json").read_text()))

    def write(self, folder: Path) -> None:
        write_json(folder / "run.json", asdict(self))


class Curves:
    """Of one run; training that goes on after a stop goes on with the same `name`.

    A tracking failure is told once and never stops training: the weights matter more than their curves.
    """

    def __init__(self, name: str, stage: str, parameters: dict[str, Any]) -> None:
        self.folder = project.state_folder() / "curves" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "run.json").is_file():
            Delivery(stage, {key: str(value) for key, value in parameters.items()}).write(self.folder)
        self.points: BinaryIO = (self.folder / "points.jsonl").open("ab", buffering=0)
        self.unwritten = b""  # what a full disk had no room for
        self._write(b"\n")  # ends a line that a killed run began
        self.ended, self.abandoned = threading.Event(), False
        self.thread = threading.Thread(target=self._deliver, name="mlflow", daemon=True)
        self.thread.start()

    def log(self, step: int, values: dict[str, float]) -> None:
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        self._write(json.dumps({"step": step, "time": time.time(), "values": known}).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        """To the disk, after what it had no room for; some MB in weeks."""
        full = bool(self.unwritten)
        self.unwritten += line
        try:
            while self.unwritten:
                self.unwritten = self.unwritten[self.points.write(self.unwritten) :]
        except OSError as error:
            if not full:
                log.warning("points of the curves wait for room on the disk (%s: %s)", self.folder, error.strerror)

    def finish(self, tags: dict[str, str], pictures: Path | None = None) -> None:
        """Note the end, with tags and a folder of pictures; waits at most PATIENCE_S for MLflow to have all of it, and
        as long for room on a full disk."""
        end = time.monotonic() + PATIENCE_S
        while self.unwritten and time.monotonic() < end:
            time.sleep(ROOM_AGAIN_S)
            self._write(b"")
        if self.unwritten:
            log.warning("%d points of the curves found no room on the disk", self.unwritten.count(b"\n"))
        self.points.close()
        if pictures and pictures.is_dir():  # copied: the stage may make its own again before MLflow is back
            shutil.copytree(pictures, self.folder / "pictures", dirs_exist_ok=True)
        write_json(self.folder / "end.json", tags)
        self.ended.set()
        self.thread.join(timeout=PATIENCE_S)
        self.abandoned = True
        if self.folder.is_dir():
            log.warning("MLflow is away: curves wait in %s; `medseg register` delivers them", self.folder)

    def _deliver(self) -> None:
        pause_s = FLUSH_EVERY_S
        while self.folder.is_dir() and not self.abandoned:
            try:
                deliver(self.folder)
                pause_s = FLUSH_EVERY_S
            except Exception as error:  # any store or network error; see the class's docstring
                if pause_s == FLUSH_EVERY_S:
                    told = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                    log.warning("MLflow: curves wait on this disk until it is back (%s)", told)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            if self.ended.wait(pause_s):
                time.sleep(0.1)  # asked again and again while `finish` waits


def deliver_all() -> None:
    """Give MLflow what ended runs of this project left. Raises ValueError if MLflow is away."""
    for end in sorted((project.state_folder() / "curves").glob("*/end.json")):
        deliver(end.parent)
        log.info("MLflow: has the curves of %s now", end.parent.name)


def deliver(folder: Path) -> None:
    """Give MLflow what it lacks of a run; once it has all of a run that ended, the folder goes."""
    ended = (folder / "end.json").is_file()  # asked first: points that come after it do not exist
    client = configure().MlflowClient()
    from mlflow.entities import RunTag

    state = Delivery.read(folder)
    if state.run_id is None:
        state.run_id = _start(client, state)
        state.write(folder)
    for lines in _batches(folder / "points.jsonl", state.bytes):
        _send(client, state.run_id, lines)
        state.bytes += sum(map(len, lines))
        state.write(folder)
    if ended:
        tags = json.loads((folder / "end.json").read_text())
        log_all(client, state.run_id, "tags", [RunTag(name, str(value)) for name, value in tags.items()])
        if (folder / "pictures").is_dir():
            client.log_artifacts(state.run_id, str(folder / "pictures"), state.stage)
        client.set_terminated(state.run_id)
        shutil.rmtree(folder, ignore_errors=True)  # a training that just ended may do the same


def _batches(points: Path, start: int) -> Iterator[list[bytes]]:
    """Whole lines from byte `start` on, BATCH at a time; the last line may be half written yet."""
    with points.open("rb") as file:
        file.seek(start)
        whole = (line for line in file if line.endswith(b"\n"))
        while lines := list(islice(whole, BATCH)):
            yield lines


def _start(client: Any, state: Delivery) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    run = client.create_run(experiment.experiment_id, tags={"stage": state.stage})
    from mlflow.entities import Param

    log_all(client, run.info.run_id, "params", [Param(name, str(each)) for name, each in state.parameters.items()])
    return str(run.info.run_id)


def _send(client: Any, run_id: str, lines: list[bytes]) -> None:
    from mlflow.entities import Metric

    points = [point for line in lines if (point := _read(line))]
    metrics = [
        Metric(name, value, int(point["time"] * 1000), point["step"])
        for point in points
        for name, value in point["values"].items()
    ]
    log_all(client, run_id, "metrics", metrics)


def _read(line: bytes) -> dict[str, Any]:
    """A point; empty for a line that a killed run, or a full disk, cut off."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}
