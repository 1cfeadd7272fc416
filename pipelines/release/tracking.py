"""MLflow: where it lies, curves that never hold up a step, and which version belongs to which weights.

$MLFLOW_TRACKING_URI names a server; without it everything lies in `.medseg/` on SQLite. `import mlflow` takes seconds,
so it happens inside functions, and in training on a thread of its own.
"""

import hashlib
import logging
import os
import queue
import subprocess
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from ruamel.yaml import YAML

from pipelines.scans import manifest
from pipelines.work import project
from pipelines.work.digests import sha256_of

log = logging.getLogger(__name__)

EXPERIMENT = "medsegformer"
CANDIDATE = "candidate"  # alias of the version whose outputs lie in the project
FLUSH_EVERY_S = 5.0


def tracking_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.state() / 'mlflow.db'}"


def artifact_folder() -> Path:
    return project.state() / "mlartifacts"


def configure() -> ModuleType:
    """MLflow, pointed at this project's store, with telemetry and chatter off."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    for chatty in ("alembic", "mlflow.store", "mlflow.utils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(tracking_uri())
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        local = tracking_uri().startswith("sqlite:")
        mlflow.create_experiment(EXPERIMENT, artifact_location=artifact_folder().as_uri() if local else None)
    mlflow.set_experiment(EXPERIMENT)
    return mlflow


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


def run_of(client: Any, weights_sha256: str) -> str:
    """The training run that made these weights; a new one if they came from a cache or an untracked run."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], f"tags.weights_sha256 = '{weights_sha256}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(experiment.experiment_id, tags={"weights_sha256": weights_sha256, "restored": "true"})
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def version_of(weights_sha256: str, name: str) -> Any | None:
    """The newest registered version with these weights (MLflow ModelVersion), or None."""
    client = configure().MlflowClient()
    found = client.search_model_versions(f"name = '{name}'")
    own = [version for version in found if version.tags.get("weights_sha256") == weights_sha256]
    return max(own, key=lambda version: int(version.version)) if own else None


def make_candidate(name: str, version: str) -> None:
    """Give a version the alias `candidate`, unless it has it."""
    client = configure().MlflowClient()
    if CANDIDATE not in client.get_model_version(name, version).aliases:
        client.set_registered_model_alias(name, CANDIDATE, version)


def identity() -> dict[str, str]:
    """What a result can be traced to: commit, and digests of the pipeline's lock, the manifest and the parameters."""
    return {
        "git_commit": git_commit(),
        "dvc_lock_sha256": upstream_lock_sha256("register"),
        "manifest_sha256": manifest.digest(),
        "params_sha256": sha256_of(Path("params.yaml")),
    }


def upstream_lock_sha256(stage: str) -> str:
    """sha256 of dvc.lock's entries of the stages before `stage`: its own entry is written after it has run."""
    lock = project.root() / "dvc.lock"
    if not lock.is_file():
        return ""
    declared = list(YAML(typ="safe", pure=True).load((project.root() / "dvc.yaml").read_text())["stages"])
    before = declared[: declared.index(stage)] if stage in declared else declared
    stages = YAML(typ="safe", pure=True).load(lock.read_text())["stages"]
    entries = sorted((name, _plain(entry)) for name, entry in stages.items() if name in before)
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Nested mappings as sorted pairs, so that their order does not matter."""
    if isinstance(value, dict):
        return sorted((key, _plain(item)) for key, item in value.items())
    return [_plain(item) for item in value] if isinstance(value, list) else value


def git_commit() -> str:
    """The commit, with `-dirty` if tracked files differ from it; `unknown` outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, check=True, cwd=project.root(),
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
