"""From a model's name in MLflow's registry to weights that can be trusted."""

from pathlib import Path
from typing import Any

from model import weights
from pipelines.release import tracking


def weights_of(model: str) -> Path:
    """The local weights folder of `models:/NAME@ALIAS` or `models:/NAME/VERSION`, its checksum verified.

    Raises ValueError if there is no such version, or its weights are not the registered ones.
    """
    name, _, wanted = model.removeprefix("models:/").replace("@", "/@").partition("/")
    if not model.startswith("models:/") or not name or not wanted:
        raise ValueError(f"--model {model!r} must look like models:/NAME@ALIAS or models:/NAME/VERSION")
    mlflow = tracking.configure()
    version = _version(mlflow, name, wanted)
    uri, expected = version.tags["weights_uri"], version.tags["weights_sha256_stamped"]
    path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    return verified(path, expected)


def verified(path: Path, expected_sha256: str) -> Path:
    """`path`, if its weights have this digest (`model.weights.digest`); ValueError otherwise."""
    found = weights.digest(path)
    if found != expected_sha256:
        raise ValueError(f"{path}: sha256 {found[:12]}... is not the registered {expected_sha256[:12]}...; not loaded")
    return path


def _version(mlflow: Any, name: str, wanted: str) -> Any:
    """`wanted`: a version's number, or @ALIAS."""
    client = mlflow.MlflowClient()
    try:
        if wanted.startswith("@"):
            return client.get_model_version_by_alias(name, wanted[1:])
        return client.get_model_version(name, wanted)
    except mlflow.exceptions.MlflowException as error:
        raise ValueError(f"{name} {wanted}: {error.message}; `medseg status` shows what is registered") from None
