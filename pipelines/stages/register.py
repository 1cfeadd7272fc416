"""Register the trained and evaluated network as a version in MLflow (DVC stage `register`).

Reads   models/train, reports/evaluate, params.yaml: register
Writes  models/register/model.json; a version with alias `candidate` in MLflow's registry
Run     python -m pipelines register

The weights get the run identity stamped into their header and are stored with the training run; the version holds a
reference and a checksum. model.json holds only what is the same wherever the pipeline is reproduced.
"""

import io
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from model import weights
from pipelines import params
from pipelines.release import run_identity, tracking
from pipelines.work import project
from pipelines.work.digests import sha256_of
from pipelines.work.writing import replacing, write_json

log = logging.getLogger(__name__)


def main() -> None:
    name = params.load().register_.name
    trained = project.TRAINED
    metrics = json.loads((project.EVALUATION / "metrics.json").read_text())
    version = register(name, trained, metrics)
    with replacing(project.REGISTERED) as folder:
        folder.mkdir()
        write_json(folder / "model.json", {"name": name, "weights_sha256": weights.digest(trained)})
    log.info("register: %s version %s, alias %s", name, version, tracking.CANDIDATE)


def register(name: str, trained: Path, metrics: dict[str, Any]) -> str:
    """Make a version of these weights and give it the alias `candidate`; the version's number."""
    mlflow = tracking.configure()
    client = mlflow.MlflowClient()
    weights_sha256 = weights.digest(trained)
    run_id = tracking.run_of(client, weights_sha256)
    identity = {**run_identity.here(), "mlflow_run_id": run_id}
    with tempfile.TemporaryDirectory() as scratch:
        stamped = Path(scratch) / "weights"
        weights.stamp(trained, stamped, identity)
        stamped_sha256 = weights.digest(stamped)
        shards = {file.name: sha256_of(file) for file in weights.files(stamped)}
        client.log_artifacts(run_id, str(stamped), "weights")
    for file in ("metrics.json", "cases.csv", "montage.png"):
        client.log_artifact(run_id, str(project.EVALUATION / file), "evaluate")
    for structure, value in {"mean": metrics["mean_dice"], **metrics["dice"]}.items():
        if value is not None:
            client.log_metric(run_id, f"dice.{structure}", value)
    weights_uri = f"runs:/{run_id}/weights"
    tags = {
        **identity,
        "weights_sha256": weights_sha256,
        "weights_sha256_stamped": stamped_sha256,
        "weights_uri": weights_uri,
        "weights_shards": json.dumps(shards),
        **({} if metrics["mean_dice"] is None else {"mean_dice": f"{metrics['mean_dice']:.6f}"}),
        "dice": json.dumps(metrics["dice"]),
    }
    with mlflow.start_run(run_id=run_id), _quiet():
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).parents[1] / "serving" / "pyfunc.py"),
            model_config={"weights_uri": weights_uri, "weights_sha256": stamped_sha256},
            signature=_signature(),
            registered_model_name=name,
            pip_requirements=["medsegformer"],
        )
    version = str(logged.registered_model_version)
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    tracking.make_candidate(name, version)  # last: an alias never shows a version without its tags
    return version


def _signature() -> Any:
    """Paths in, label maps of any shape out; `modality` where the model knows several."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema([ParamSpec("modality", DataType.string, "")]),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's remarks on type hints and on its own progress; what fails still raises."""
    logger = logging.getLogger("mlflow")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
