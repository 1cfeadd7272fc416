"""What a cluster is asked for, and whether it may be: the launch certificate is checked before a queue gets the job."""

from dataclasses import dataclass

from model.certificate.document import WITHOUT_CERTIFICATE, Launch
from model.engine.hardware import GPUS, find_gpu
from pipelines import params
from pipelines.params.recipe import Optimisation
from pipelines.training import certificates
from pipelines.work import environment


@dataclass(frozen=True)
class Machines:
    """`ranks`, `cpus`, `gpus`: of each."""

    count: int
    ranks: int
    cpus: int
    gpus: int


def asked_for(model: params.Model, recipe: Optimisation) -> Machines:
    """From MEDSEG_NODES, _RANKS, _CPUS and _GPUS. Raises ValueError if the batch or the certificate says no."""
    ours = environment.read()
    machines, gpus = ours.nodes or 1, ours.gpus or 0
    ranks = ours.ranks or gpus or 1
    shares = recipe.global_batch // recipe.micro_batch
    if shares % (machines * ranks):
        raise ValueError(
            f"MEDSEG_NODES = {machines} with {ranks} ranks each must divide {recipe.block}.global_batch / "
            f"{recipe.block}.micro_batch = {shares}; choose other numbers (MEDSEG_RANKS, MEDSEG_GPUS)"
        )
    if gpus:
        _require_certificate(model, recipe, machines * ranks, ours.shard_ranks or ranks)
    return Machines(machines, ranks, ours.cpus or ranks, gpus)


def _require_certificate(model: params.Model, recipe: Optimisation, ranks: int, group: int) -> None:
    """The ranks ask again when they start, on the GPU that they find."""
    ours = environment.read()
    if ours.gpu:
        kind = find_gpu(ours.gpu)
        digest = certificates.digest(model, recipe)
        certificates.require(Launch(ranks, group, kind.family, kind.memory_bytes, digest))
    elif ranks > WITHOUT_CERTIFICATE and not ours.uncertified:
        raise ValueError(
            f"MEDSEG_GPU is not set, and {ranks} GPUs need a launch certificate before a job is queued; name their "
            f"kind: {', '.join(GPUS)}"
        )
