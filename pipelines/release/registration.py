"""Make the version that models/register/model.json describes, unless MLflow holds it already.

    registration.make_version() -> "7"       the version's number; it has the alias `candidate` then

May be called as often as one likes, after whatever brought the files: a run, `dvc repro`, `dvc exp run`, `dvc pull`.
A version holds a reference to the weights, the record, and MLflow's description of how to load them: no code.
"""

import io
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from pipelines.release import audit, card, dossier, issuing, record, registry, run_identity, store, tracking
from pipelines.release.reading import Reader
from pipelines.work import project
from pipelines.work.digests import sha256_of

log = logging.getLogger(__name__)

CANDIDATE = "candidate"  # alias of the version whose files lie in the project
LOADER = "pipelines.serving.pyfunc"


def make_version() -> str:
    """The version's number. Raises ValueError if stage `register` has not run, or MLflow does not answer."""
    content = record.read()
    number = _candidate(content)
    if number is None:
        number = _registered(content)
        _candidate(content)  # what MLflow says now is remembered for the next time
    dossier.note(content["name"], number, record.digest(content))
    return number


def _candidate(content: dict[str, Any]) -> str | None:
    """The version of this record, if there is one and it has the alias."""
    reader = Reader()
    version = registry.of_record(reader, content)
    if version and CANDIDATE in reader.get_model_version(content["name"], version.version).aliases:
        return str(version.version)
    return None


def _registered(content: dict[str, Any]) -> str:
    client = tracking.configure().MlflowClient()
    version = registry.of_record(client, content)
    if version is None:
        version = _make(client, content)
        log.info("register: %s version %s", content["name"], version.version)
        told = {"name": content["name"], "version": int(version.version), "weights_sha256": content["weights_sha256"]}
        audit.append("register", record_sha256=record.digest(content), **told)
        _write_card(version.version, content)
    if CANDIDATE not in client.get_model_version(content["name"], version.version).aliases:
        client.set_registered_model_alias(content["name"], CANDIDATE, version.version)
        tracking.keep_copy()
    return str(version.version)


def _make(client: Any, content: dict[str, Any]) -> Any:
    """Its tags come with it, so that nobody ever sees a version without them."""
    mlflow = tracking.configure()
    store.keep(project.root() / project.TRAINED, content["weights_sha256"])
    run_id = _run_of(client, content["weights_sha256"])
    origin = _origin(client, run_id)
    folder = dossier.keep(content, origin)
    store.publish(client, run_id, content["weights_sha256"])
    dossier.publish(client, run_id, folder.name)
    for file in ("index.html", "metrics.json", "details.json", "summary.json", "cases.parquet", "cases.csv"):
        if (path := project.root() / project.EVALUATION / file).is_file():
            client.log_artifact(run_id, str(path), "evaluate")
    now_ms = time.time_ns() // 1_000_000
    figures = [mlflow.entities.Metric(name, value, now_ms, 0) for name, value in _figures(content).items()]
    tracking.log_all(client, run_id, "metrics", figures)
    tags = {**_tags(run_id, content, origin), "dossier_sha256": dossier.digest(folder)}
    with _quiet(), mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module=LOADER,
            model_config={"name": content["name"], "record_sha256": record.digest(content)},
            signature=_signature(),
            pip_requirements=[],  # this package is on no index: under its name there anybody's code could lie
        )
        return mlflow.register_model(logged.model_uri, content["name"], tags=tags)


def _write_card(version: str, content: dict[str, Any]) -> None:
    """It can be made at any time, so that what is wrong with it is no reason to stop here."""
    record_sha256 = record.digest(content)
    try:
        standing = issuing.standing_of(version, content)
        card.write(card.place(record_sha256), dossier.place(record_sha256), standing)
    except ValueError as error:
        log.warning("register: no model card (%s); `medseg card %s` makes it", error, version)


def _figures(content: dict[str, Any]) -> dict[str, float]:
    """METRIC.STRUCTURE -> mean over held-out cases; Dice alone, if another evaluation than the record's lies here."""
    found = {f"dice.{name}": value for name, value in {"mean": content["mean_dice"], **content["dice"]}.items()}
    path = project.root() / project.EVALUATION / "metrics.json"
    if path.is_file() and sha256_of(path) == content["evaluation_files"]["metrics.json"]:
        for structure, told in json.loads(path.read_text())["structures"].items():
            found |= {f"{key}.{structure}": each["mean"] for key, each in told.items() if _is_figure(each)}
    return {name: value for name, value in found.items() if value is not None}


def _is_figure(told: Any) -> bool:
    return isinstance(told, dict) and "mean" in told


def _run_of(client: Any, weights_sha256: str) -> str:
    """The training run that made these weights; a new one if they came from a cache or an untracked run."""
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], f"tags.weights_sha256 = '{weights_sha256}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(experiment.experiment_id, tags={"weights_sha256": weights_sha256, "restored": "true"})
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _origin(client: Any, run_id: str) -> dict[str, str]:
    """Of the training run, as far as it tells."""
    told = client.get_run(run_id).data.tags
    return {name: told.get(name) or here for name, here in run_identity.origin().items()}


def _tags(run_id: str, content: dict[str, Any], origin: dict[str, str]) -> dict[str, str]:
    """The record whole, and of it what people look at and search for."""
    return {
        "record": record.text(content),
        "record_sha256": record.digest(content),
        "weights_sha256": content["weights_sha256"],
        "dice": record.text(content["dice"]),
        **({} if content["mean_dice"] is None else {"mean_dice": f"{content['mean_dice']:.6f}"}),
        "held_out_cases": str(content["cases"]),
        **origin,
        "mlflow_run_id": run_id,
        **content["identity"],
    }


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
