"""One rank of a training stage, from the parameters to saved weights: what `pretrain` and `train` share.

A stage says what is learnt (`LearningStage.prepare`) and what is kept of it (`save`); everything between is here. The
ranks are started, and replaced when they die, by launcher.py. A run's checkpoints lie in a folder named by content:
parameters, case files, encoder and code. What is not of the same content never goes on in it.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model.data import shared_memory
from model.data.casefile import Case
from model.data.dataset import SampleStream
from model.engine.numerics import set_numerics
from model.engine.parallelize import ParallelConfig, parallelize
from model.engine.ranks import Ranks, join_ranks, outlast_hangs
from model.engine.state import TrainState
from model.engine.task import TrainingTask
from model.engine.trainer import FitConfig, Run, fit
from model.engine.watch import PREEMPTED, Watch
from model.weights import load_encoder
from pipelines import params
from pipelines.cases import case_folder
from pipelines.params.recipe import Optimisation
from pipelines.release import audit, run_identity
from pipelines.scans.manifest import TRAIN, VALIDATION
from pipelines.training import certificates
from pipelines.training.curves import Curves
from pipelines.training.history import History
from pipelines.work import code, environment, project
from pipelines.work.digests import remembered
from pipelines.work.garbage import uncollected

log = logging.getLogger(__name__)

PEER_LOST = 76  # exit code of a rank that could not reach another one


@dataclass(frozen=True)
class Learning:
    """Everything `fit` needs. `encoder`: folder of the pretrained one to start from. `card`: goes with the weights."""

    network: Any  # built on the meta device
    task: TrainingTask
    stream: SampleStream
    validation: list[Case]
    fit: FitConfig
    parallel: ParallelConfig
    card: Any
    encoder: Path | None = None


@dataclass(frozen=True)
class LearningStage:
    """`name`: of the stage and of its block of parameters. `prepare`: the same on every rank. `save`: every rank takes
    part; what rank 0 returns tags the MLflow run, and the files of `pictures` are logged with it."""

    name: str
    prepare: Callable[[params.Params], Learning]
    save: Callable[[params.Params, Learning, TrainState, Ranks], dict[str, str]]
    pictures: Path | None = None


def as_rank(stage: LearningStage, settings: params.Params) -> None:
    """This process's part in a run that the launcher started; it ends the process with an exit code of watch.py."""
    loaders = environment.read().loaders
    try:
        ranks = join_ranks(
            loader_workers=loaders if loaders is not None else 8 if torch.cuda.is_available() else 0,
            shard_ranks=environment.read().shard_ranks,
        )
        set_numerics(ranks.device, environment.read().deterministic)
        state = _train(stage, settings, ranks)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            log.warning("rank %s lost another rank (%s)", os.environ["RANK"], str(error).split(". ")[0])
            os._exit(PEER_LOST)  # without waiting for threads that wait for the lost rank
        raise
    if dist.is_initialized():
        dist.destroy_process_group()
    if state.step < block_of(stage.name, settings).steps:
        raise SystemExit(PREEMPTED)


def _train(stage: LearningStage, settings: params.Params, ranks: Ranks) -> TrainState:
    block = block_of(stage.name, settings)
    certificate = certificates.require(certificates.launch(settings.model, block, ranks.world, ranks.node))
    job = stage.prepare(settings)
    if ranks.loader_workers:  # every rank, before the first meeting, so before any has filled a part of it
        on_machine = int(os.environ["LOCAL_WORLD_SIZE"])
        shared_memory.require(job.stream.batch_bytes(ranks.device), ranks.loader_workers, on_machine)
    with uncollected():  # half a second and a whole one, and the launcher needs none of it
        from torch import _dynamo  # noqa: F401    which PyTorch's wrappers and optimizers import at their first use

        from model.engine.checkpoint import Checkpoints

    parallel = parallelize(job.network, job.parallel, ranks, job.fit.precision, job.stream.config.seed)
    outlast_hangs(environment.read().hang_s)
    if job.encoder:
        load_encoder(parallel.network, job.encoder)
    folder = run_folder(stage.name, settings)
    if ranks.rank == 0:
        _tell_of_unfinished_runs(stage.name, folder)
        audit.append(
            f"{stage.name}.start", run=folder.name, **run_identity.of_stage(stage.name, settings.model, block),
            **run_identity.origin(), **run_identity.people(), plan_sha256=run_identity.plan_sha256(),
        )  # fmt: skip
    checkpoints = Checkpoints(folder, ranks, every_s=environment.read().checkpoint_s)
    watch = Watch(folder, ranks.rank, hang_s=environment.read().hang_s)
    known = {**recorded(stage.name, settings), "certificate": certificate}
    curves = Curves(folder.name, stage.name, known) if ranks.rank == 0 else None
    history = History(curves, job.fit.steps, job.task.decides)
    run = Run(parallel, job.task, job.stream, job.validation, job.fit, ranks, history.report, checkpoints, watch)
    state = fit(run)
    if state.step < job.fit.steps:
        if ranks.rank == 0:
            log.info("%s: stopped on request after step %d, which is saved; run again to go on", stage.name, state.step)
        return state
    best_step = checkpoints.load_best(state) if job.fit.export == "best" else None
    tags = stage.save(settings, job, state, ranks)
    if best_step is not None:
        tags["exported_step"] = str(best_step)
    if curves:
        audit.append(stage.name, run=folder.name, **tags)
        curves.finish(tags, stage.pictures)
    checkpoints.remove()
    return state


def run_folder(stage: str, settings: params.Params) -> Path:
    """Where this run's checkpoints lie. What would make another run of it - data, parameters, code - changes the name.

    $MEDSEG_CHECKPOINTS names another place than the project; all ranks must see it.
    """
    digest = hashlib.sha256(json.dumps(recorded(stage, settings), sort_keys=True, default=str).encode())
    digest.update(f"{code.of_stage(stage)} {_content(stage)}".encode())
    parent = environment.read().checkpoints or project.state_folder() / "checkpoints"
    return parent / f"{stage}-{digest.hexdigest()[:12]}"


def _content(stage: str) -> list[tuple[str, str]]:
    """(name, sha256) of everything that a run reads. Of case files the index knows it, of the others the memory."""
    seen = (TRAIN, VALIDATION)
    cases = [(each.case_id, each.sha256) for each in case_folder.read_index(project.CASES) if each.split in seen]
    others = [project.CASES / "preprocessing.json"]
    if stage == "train":
        others += sorted(project.PRETRAINED.glob("*.safetensors"))
    with remembered(project.state_folder() / "digests.sqlite") as digests:
        return cases + [(path.name, digests.of(path)) for path in others]


def _tell_of_unfinished_runs(stage: str, folder: Path) -> None:
    if not folder.exists() and (others := sorted(folder.parent.glob(f"{stage}-*"))):
        log.info(
            "%s: %s holds %d unfinished run(s) of other parameters, data or code: %s. Remove what is not needed; to "
            "go on with one all the same, rename it to %s",
            stage, folder.parent, len(others), ", ".join(other.name for other in others), folder.name,
        )  # fmt: skip


def block_of(stage: str, settings: params.Params) -> Optimisation:
    """The stage's block of the parameters."""
    return settings.pretrain if stage == "pretrain" else settings.train


def recorded(stage: str, settings: params.Params) -> dict[str, object]:
    """The parameters that make the run, by their keys."""
    blocks = {"model": settings.model.model_dump(), stage: block_of(stage, settings).model_dump()}
    if stage == "train":
        blocks["pretrain"] = {"steps": settings.pretrain.steps}
    return {f"{block}.{name}": value for block, values in blocks.items() for name, value in values.items()}
