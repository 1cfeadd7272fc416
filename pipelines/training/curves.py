"""Curves of a training run in MLflow, kept by a thread that never holds up a step."""

import logging
import queue
import threading
import time
from pathlib import Path
from typing import Any

from pipelines.release.tracking import EXPERIMENT, configure

log = logging.getLogger(__name__)

FLUSH_EVERY_S = 5.0


class Curves:
    """A training run's curves. `log` only queues; a thread writes in batches and outlives a slow or absent server.

    `run_file` keeps the run's id, so that training which goes on after a stop goes on in the same run.
    A tracking failure is reported once and never stops training: the weights matter more than their curves, and the
    register stage makes a new run if this one could not be kept.
    """

    def __init__(self, stage: str, parameters: dict[str, Any], run_file: Path) -> None:
        self.stage = stage
        self.queue: queue.Queue[tuple[int, float, dict[str, float]] | None] = queue.Queue()
        self.parameters, self.run_file = parameters, run_file
        self.tags: dict[str, str] = {}
        self.pictures: Path | None = None
        self.thread = threading.Thread(target=self._write_all, name="mlflow", daemon=True)
        self.thread.start()

    def log(self, step: int, values: dict[str, float]) -> None:
        self.queue.put((step, time.time(), values))

    def finish(self, tags: dict[str, str], pictures: Path | None = None) -> None:
        """Write what is queued, tag the run, add a folder of pictures and end it; waits at most a minute."""
        self.tags, self.pictures = tags, pictures
        self.queue.put(None)
        self.thread.join(timeout=60)

    def _write_all(self) -> None:
        try:
            client, run_id = self._start()
            while self._write_some(client, run_id):
                time.sleep(FLUSH_EVERY_S)
            for name, value in self.tags.items():
                client.set_tag(run_id, name, value)
            if self.pictures:
                client.log_artifacts(run_id, str(self.pictures), self.stage)
            client.set_terminated(run_id)
        except Exception as error:  # any store or network error; see the class's docstring
            log.warning("MLflow: curves are not kept (%s: %s)", type(error).__name__, str(error).splitlines()[0])

    def _start(self) -> tuple[Any, str]:
        mlflow = configure()
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if self.run_file.exists():
            run_id = self.run_file.read_text()
            client.update_run(run_id, "RUNNING")
            return client, run_id
        run = client.create_run(experiment.experiment_id, tags={"stage": self.stage})
        for name, value in self.parameters.items():
            client.log_param(run.info.run_id, name, value)
        self.run_file.write_text(run.info.run_id)
        return client, run.info.run_id

    def _write_some(self, client: Any, run_id: str) -> bool:
        """Write everything queued so far in one call; False once the end was met."""
        from mlflow.entities import Metric

        metrics, running = [], True
        while running and not self.queue.empty():
            entry = self.queue.get()
            if entry is None:
                running = False
            else:
                step, when, values = entry
                metrics += [Metric(name, v, int(when * 1000), step) for name, v in values.items() if v == v]
        for start in range(0, len(metrics), 1000):  # MLflow's bound on one batch
            client.log_batch(run_id, metrics=metrics[start : start + 1000])
        return running
