"""Whether training may start here: many GPUs need a launch certificate, made by `medseg certify` for exactly this run.

Certificates lie in `.medseg/certificates`. MEDSEG_UNCERTIFIED=1 starts without one, and that is recorded with the run.
"""

from pathlib import Path

import torch

from model.certificate import document
from model.certificate.document import Launch
from pipelines import params
from pipelines.params.recipe import Optimisation
from pipelines.work import code, environment, project

UNCERTIFIED = "uncertified, on request"


def launch(model: params.Model, recipe: Optimisation, ranks: int, node: int) -> Launch:
    """What is about to start, as a launch certificate would have it. `node`: ranks on this machine."""
    gpu, memory_bytes = "", 0.0
    if torch.cuda.is_available():
        gpu, memory_bytes = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
    group = environment.read().shard_ranks or node
    return Launch(ranks, group, gpu, memory_bytes, digest(model, recipe))


def folder() -> Path:
    return project.state_folder() / "certificates"


def digest(model: params.Model, recipe: Optimisation) -> str:
    """What a certificate is bound to: these two blocks, the code that trains, what simulates it and chooses how."""
    simulates = code.digest("model.certificate.report", without=())
    chooses = code.digest("pipelines.training.certification", without=(*code.WITHOUT_INFLUENCE, *code.PICTURES))
    return document.digest(_blocks(model, recipe), f"{code.of_stage(recipe.block)} {simulates} {chooses}")


def _blocks(model: params.Model, recipe: Optimisation) -> dict[str, object]:
    return {"model": model.model_dump(mode="json"), recipe.block: recipe.model_dump(mode="json")}


def require(launch: Launch) -> str:
    """What the run starts with, for its record. Raises ValueError if it needs a certificate and has none."""
    certificate, refusal = document.check(launch, folder())
    if certificate:
        return certificate.name
    if refusal and not environment.read().uncertified:
        raise ValueError(refusal)
    return UNCERTIFIED if refusal else "not needed"
