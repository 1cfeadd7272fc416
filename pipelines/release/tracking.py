"""MLflow: where it lies, curves that never hold up a step, and which version belongs to which weights.

$MLFLOW_TRACKING_URI names a server; without it everything lies in `.medseg/` on SQLite. `import mlflow` takes seconds,
so it happens inside functions, and in training on a thread of its own.
"""

import logging
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from pipelines.work import project

log = logging.getLogger(__name__)

EXPERIMENT = "medsegformer"
CANDIDATE = "candidate"  # alias of the version whose outputs lie in the project


def tracking_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.state_folder() / 'mlflow.db'}"


def artifact_folder() -> Path:
    return project.state_folder() / "mlartifacts"


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
