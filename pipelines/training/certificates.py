"""Whether training may start here: many GPUs need a launch certificate, made by `medseg certify` for exactly this run.

Certificates lie in `.medseg/certificates`. MEDSEG_UNCERTIFIED=1 starts without one, and that is recorded with the run.
"""

import hashlib
import json
import os
from pathlib import Path

from model.certificate import document
from model.certificate.document import Launch
from pipelines import params
from pipelines.params.recipe import Optimisation
from pipelines.work import project

UNCERTIFIED = "uncertified, on request"


def folder() -> Path:
    return project.state() / "certificates"


def digest(model: params.Model, recipe: Optimisation) -> str:
    """What a certificate is bound to: these two blocks, and the code of the network and of its training."""
    return document.digest(_blocks(model, recipe))


def parameters_sha256(model: params.Model, recipe: Optimisation) -> str:
    """Of these two blocks alone."""
    return hashlib.sha256(json.dumps(_blocks(model, recipe), sort_keys=True).encode()).hexdigest()


def _blocks(model: params.Model, recipe: Optimisation) -> dict[str, object]:
    return {"model": model.model_dump(mode="json"), recipe.block: recipe.model_dump(mode="json")}


def require(launch: Launch) -> str:
    """What the run starts with, for its record. Raises ValueError if it needs a certificate and has none."""
    certificate, refusal = document.check(launch, folder())
    if certificate:
        return certificate.name
    if refusal and os.environ.get("MEDSEG_UNCERTIFIED") != "1":
        raise ValueError(refusal)
    return UNCERTIFIED if refusal else "not needed"
