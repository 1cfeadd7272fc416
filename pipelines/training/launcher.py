"""Start the ranks of a training stage and see them through: what `pretrain` and `train` share.

The stage is torchrun's agent and starts the ranks. How many, on how many threads and where are placement, not
parameters: MEDSEG_RANKS (default: all GPUs, else as many cores as share the batch evenly). A run that was stopped or
killed goes on from its last checkpoint; a rank that dies is replaced at once, up to MEDSEG_RESTARTS times.
"""

import csv
import hashlib
import json
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

import model
from model.certificate.document import Launch
from model.data.augment import AugmentConfig
from model.data.casefile import Case
from model.data.dataset import SampleStream
from model.engine.checkpoint import Checkpoints
from model.engine.parallelize import ParallelConfig, Ranks, bare, join, parallelize
from model.engine.state import TrainState
from model.engine.trainer import FitConfig, fit
from model.engine.watch import PREEMPTED, Watch
from model.tasks.segmentation import Task
from model.weights import load_encoder
from pipelines import params
from pipelines.cases.preparation import Preprocessing
from pipelines.params import bysource
from pipelines.params.recipe import Optimisation
from pipelines.release import tracking
from pipelines.scans.manifest import TRAIN, VALIDATION
from pipelines.training import certificates
from pipelines.work import project
from pipelines.work.parallel import duration

log = logging.getLogger(__name__)

PEER_LOST = 76  # exit code of a rank that could not reach another one
# glibc returns large tensors to the kernel at every free; keeping them nearly halved the CPU time
# of a step of nnU-Net's network on a CPU.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}

GPU_MALLOC = {
    "PYTORCH_ALLOC_CONF": "expandable_segments:True"
}  # the certificate's reserve for fragmentation counts on it


@dataclass(frozen=True)
class Job:
    """Everything `fit` needs. `encoder`: folder of the pretrained one to start from. `card`: goes with the weights."""

    network: Any  # built on the meta device
    task: Task
    stream: SampleStream
    validation: list[Case]
    fit: FitConfig
    parallel: ParallelConfig
    card: Any
    encoder: Path | None = None


@dataclass(frozen=True)
class Stage:
    """`name`: of the stage and of its block of parameters. `prepare`: the same on every rank. `save`: every rank takes
    part; what rank 0 returns tags the MLflow run, and the files of `pictures` are logged with it."""

    name: str
    prepare: Callable[[params.Params], Job]
    save: Callable[[params.Params, Job, TrainState, Ranks], dict[str, str]]
    pictures: Path | None = None


def main(stage: Stage) -> None:
    settings = params.load()
    if "RANK" in os.environ:
        _rank(stage, settings)
    else:
        ranks = rank_count(recipe(stage.name, settings))
        certificates.require(launch(stage.name, settings, ranks, ranks))
        _launch(stage.name, ranks, run_folder(stage.name, settings))


def _launch(stage: str, ranks: int, folder: Path) -> None:
    """Start the ranks, as torchrun does, with its agent in this process; again if one of them dies."""
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    for name, value in {"OMP_NUM_THREADS": str(threads), **MALLOC, **GPU_MALLOC}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGUSR2, _forward)
    restarts = int(os.environ.get("MEDSEG_RESTARTS", "3"))
    for attempt in range(restarts + 1):
        for stacks in folder.glob("stacks-*"):
            stacks.unlink()
        if not (reason := _run_ranks(stage, ranks)):
            return
        hung = [stacks for stacks in sorted(folder.glob("stacks-*")) if stacks.stat().st_size]
        if hung:
            reason = f"no step for too long; every rank's stack lies in {folder}: {', '.join(s.name for s in hung)}"
        if attempt < restarts:
            log.warning("%s: %s; again from the last checkpoint (%d of %d)", stage, reason, attempt + 1, restarts)
    raise ValueError(f"{reason}; {restarts} restarts did not help. Run again to go on from the last checkpoint")


def _run_ranks(stage: str, ranks: int) -> str:
    """Empty if training ended well, else why the ranks died. A refusal, which a rank told itself, ends the stage."""
    arguments = ["--standalone", "--nproc-per-node", str(ranks), "--shutdown-timeout", grace_s()]
    arguments += ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", "-m", "pipelines", stage]
    try:
        torchrun.run(torchrun.parse_args(arguments))
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        if PREEMPTED in codes.values():
            raise SystemExit(PREEMPTED) from None
        if crashed := {rank: code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM}:
            rank, code = next(iter(crashed.items()))
            return f"rank {rank} was ended by {signal.Signals(-code).name}"
        if PEER_LOST in codes.values() and 1 not in codes.values():
            return "a rank lost the others"
        raise SystemExit(1) from None
    except SignalException:
        raise SystemExit(PREEMPTED) from None
    return ""


def launch(stage: str, settings: params.Params, ranks: int, node: int) -> Launch:
    """What is about to start, as a launch certificate would have it. `node`: ranks on this machine."""
    gpu, memory_bytes = "", 0.0
    if torch.cuda.is_available():
        gpu, memory_bytes = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
    group = int(os.environ.get("MEDSEG_SHARD_RANKS") or node)
    return Launch(ranks, group, gpu, memory_bytes, certificates.digest(settings.model, recipe(stage, settings)))


def grace_s() -> str:
    """How long ranks may take to finish a step and save when they are asked to stop."""
    return os.environ.get("MEDSEG_GRACE_S", "120")


def _forward(signum: int, _frame: FrameType | None) -> None:
    """Hand a signal on to the ranks."""
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        os.kill(int(pid), signum)


def rank_count(settings: Optimisation) -> int:
    """$MEDSEG_RANKS, or one a GPU, or the most cores that share the global batch evenly. ValueError if unusable."""
    asked = os.environ.get("MEDSEG_RANKS", "")
    shares = settings.global_batch // settings.micro_batch
    if asked:
        if not asked.isdigit() or int(asked) < 1 or shares % int(asked):
            raise ValueError(
                f"MEDSEG_RANKS {asked!r} must be a whole number that divides {settings.block}.global_batch / "
                f"{settings.block}.micro_batch = {shares}; unset it to let the machine decide"
            )
        return int(asked)
    available = torch.cuda.device_count() or len(os.sched_getaffinity(0))
    return max(ranks for ranks in range(1, available + 1) if shares % ranks == 0)


def run_folder(stage: str, settings: params.Params) -> Path:
    """Where this run's checkpoints lie. What would make another run of it - data, parameters, code - changes the name.

    $MEDSEG_CHECKPOINTS names another place than the project; all ranks must see it.
    """
    digest = hashlib.sha256(json.dumps(recorded(stage, settings), sort_keys=True, default=str).encode())
    for path in sorted(Path(model.__path__[0]).rglob("*.py")):
        digest.update(path.read_bytes())
    read = [project.CASES / TRAIN, project.CASES / VALIDATION, *([project.PRETRAINED] if stage == "train" else [])]
    for path in (path for folder in read for path in sorted(folder.glob("*"))):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    parent = Path(os.environ.get("MEDSEG_CHECKPOINTS") or project.state() / "checkpoints")
    return parent / f"{stage}-{digest.hexdigest()[:12]}"


def _tell_of_unfinished_runs(stage: str, folder: Path) -> None:
    if not folder.exists() and (others := sorted(folder.parent.glob(f"{stage}-*"))):
        log.info(
            "%s: %s holds %d unfinished run(s) of other parameters, data or code: %s. Remove what is not needed; to "
            "go on with one all the same, rename it to %s",
            stage, folder.parent, len(others), ", ".join(other.name for other in others), folder.name,
        )  # fmt: skip


def _rank(stage: Stage, settings: params.Params) -> None:
    ranks = join(loader_workers=int(os.environ.get("MEDSEG_LOADERS", "8" if torch.cuda.is_available() else "0")))
    try:
        state = _train(stage, settings, ranks)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            log.warning("rank %d lost another rank (%s)", ranks.rank, str(error).split(". ")[0])
            os._exit(PEER_LOST)  # without waiting for threads that wait for the lost rank
        raise
    if dist.is_initialized():
        dist.destroy_process_group()
    if state.step < recipe(stage.name, settings).steps:
        raise SystemExit(PREEMPTED)


def _train(stage: Stage, settings: params.Params, ranks: Ranks) -> TrainState:
    certificate = certificates.require(launch(stage.name, settings, ranks.world, ranks.node))
    job = stage.prepare(settings)
    network = parallelize(job.network, job.parallel, ranks, job.fit.seed)
    if job.encoder:
        load_encoder(bare(network), job.encoder)
    folder = run_folder(stage.name, settings)
    if ranks.rank == 0:
        _tell_of_unfinished_runs(stage.name, folder)
    checkpoints = Checkpoints(folder, ranks, every_s=float(os.environ.get("MEDSEG_CHECKPOINT_S", "600")))
    watch = Watch(folder, ranks.rank, hang_s=float(os.environ.get("MEDSEG_HANG_S", "1800")))
    known = {**recorded(stage.name, settings), "certificate": certificate}
    curves = tracking.Curves(stage.name, known, folder / "mlflow-run") if ranks.rank == 0 else None
    history = History(curves, job.fit.steps, job.task.decides)
    state = fit(network, job.task, job.stream, job.validation, job.fit, ranks, history.report, checkpoints, watch)
    if state.step < job.fit.steps:
        if ranks.rank == 0:
            log.info("%s: stopped on request after step %d, which is saved; run again to go on", stage.name, state.step)
        return state
    tags = stage.save(settings, job, state, ranks)
    if curves:
        curves.finish(tags, stage.pictures)
    checkpoints.remove()
    return state


def recipe(stage: str, settings: params.Params) -> Optimisation:
    """The stage's block of the parameters."""
    return settings.pretrain if stage == "pretrain" else settings.train


def fit_config(settings: Optimisation) -> FitConfig:
    return FitConfig(**_common(settings, FitConfig))


def parallel_config(settings: Optimisation) -> ParallelConfig:
    return ParallelConfig(**_common(settings, ParallelConfig))


def augment_config(settings: Optimisation) -> AugmentConfig:
    return AugmentConfig(**settings.augment.model_dump())


def _common(settings: Optimisation, kind: Any) -> dict[str, Any]:
    names = kind.__dataclass_fields__.keys() & type(settings).model_fields.keys()
    return {name: getattr(settings, name) for name in names}


def patch_size(source: str, settings: Optimisation, plan: Preprocessing) -> tuple[int, int, int]:
    """As params.yaml states it, or as planned."""
    d, h, w = bysource.by_source(settings.patch_size, source) or plan.sources[source].patch_size
    return d, h, w


class History:
    """Tells the log and MLflow how training goes."""

    def __init__(self, curves: tracking.Curves | None, steps: int, decides: str) -> None:
        self.curves, self.steps, self.decides = curves, steps, decides

    def report(self, step: int, values: dict[str, float]) -> None:
        if self.curves:
            self.curves.log(step, values)
        if self.decides in values:
            means = [f"{name.removesuffix('.mean')} {value:.3f}" for name, value in values.items() if ".mean" in name]
            log.info("step %d/%d: %s", step, self.steps, ", ".join(means).replace("_", " "))
        else:
            log.info(
                "step %d/%d: loss %.4f, learning rate %.2e, %.2f steps/s, %.0f%% of peak, %s left",
                step, self.steps, values["loss"], values["learning_rate"], values["steps_per_s"],
                100 * values["model_flops_utilisation"], duration(values["seconds_left"]),
            )  # fmt: skip


def write_history(path: Path, curve: list[dict[str, float]]) -> None:
    """What is the same on every machine: no times, no throughput."""
    names = sorted({name for point in curve for name in point} - {"step"})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *names])
        writer.writeheader()
        writer.writerows({k: round(v, 6) for k, v in point.items()} for point in curve)


def recorded(stage: str, settings: params.Params) -> dict[str, object]:
    """The parameters that make the run, by their keys."""
    blocks = {"model": settings.model.model_dump(), stage: recipe(stage, settings).model_dump()}
    if stage == "train":
        blocks["pretrain"] = {"steps": settings.pretrain.steps}
    return {f"{block}.{name}": value for block, values in blocks.items() for name, value in values.items()}
