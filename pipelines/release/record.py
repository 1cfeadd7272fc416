"""What a version is: weights by digest, what made them, how they were evaluated and what came out.

Stage `register` writes it to models/register/model.json; it holds only what is the same wherever the pipeline is
reproduced. A version in MLflow carries its text and its digest as tags, so the two are bound to each other.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model import weights_file
from pipelines.release import canonical
from pipelines.work import project
from pipelines.work.digests import sha256_of

FILE = project.REGISTERED / "model.json"
FAMILIARITY = "familiarity.safetensors"  # among the evaluation's outputs, since there are such


def make(name: str, trained: Path, evaluation: Path) -> dict[str, Any]:
    """The record of the weights in `trained` and the figures in `evaluation`/metrics.json.

    Raises ValueError if the figures are of other weights.
    """
    metrics = json.loads((evaluation / "metrics.json").read_text())
    details = json.loads((evaluation / "details.json").read_text())
    sha256, card = weights_file.digest(trained), weights_file.read_card(trained)
    if metrics["weights_sha256"] != sha256:
        raise ValueError(
            f"{evaluation / 'metrics.json'} is of weights {metrics['weights_sha256'][:12]}..., {trained} holds "
            f"{sha256[:12]}...; run stage evaluate again"
        )
    return {
        "name": name,
        "weights_sha256": sha256,
        "weights_files": {file.name: sha256_of(file) for file in weights_file.files(trained)},
        "structures": list(card.classes),
        "identity": card.identity,
        "manifest_sha256": metrics["manifest_sha256"],
        "test_set_sha256": metrics["test_set_sha256"],
        "conditions": metrics["conditions"],
        "mean_dice": metrics["mean_dice"],
        "dice": metrics["dice"],
        "cases": metrics["cases"],
        "volume": {name: told["volume"] for name, told in details["confidence"].items()},
        "evaluation_files": evaluation_files(evaluation),
    }


def evaluation_files(folder: Path) -> dict[str, str]:
    """Name -> sha256: of the files that hold the figures, of what tells unfamiliar scans, if there is such a file, and
    one over all label maps, by name and content."""
    found = {name: sha256_of(folder / name) for name in ("metrics.json", "details.json", "cases.parquet")}
    if (folder / FAMILIARITY).is_file():
        found[FAMILIARITY] = sha256_of(folder / FAMILIARITY)
    predictions = {file.name: sha256_of(file) for file in (folder / "predictions").iterdir()}
    return {**found, "predictions": canonical.digest(predictions)}


def read(file: Path = FILE) -> dict[str, Any]:
    """The one that lies in the project, or a file of it. Raises ValueError if there is none."""
    try:
        return dict(json.loads((project.root() / file).read_text()))
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file; `medseg run` makes it") from None


def text(record: Mapping[str, Any]) -> str:
    """One spelling for one content."""
    return canonical.text(record)


def digest(record: Mapping[str, Any]) -> str:
    return canonical.digest(record)
