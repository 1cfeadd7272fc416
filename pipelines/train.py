"""Train the segmentation network (DVC stage `train`).

Reads   data/cases/train, data/cases/validation, data/cases/preprocessing.json, params.yaml: model, train
Writes  models/train/: model.safetensors, history.csv; curves to MLflow; checkpoints under .medseg/checkpoints
Run     python -m pipelines train       # MEDSEG_RANKS=2 asks for two ranks

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
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

import model
from model import weights
from model.augment import AugmentConfig
from model.casefile import Case, open_cases
from model.certificate.document import Launch
from model.checkpoint import Checkpoints
from model.config import PRESETS
from model.dataset import SampleStream, StreamConfig
from model.network import MedSegFormer
from model.parallelize import ParallelConfig, Ranks, join, parallelize
from model.state import TrainState
from model.trainer import FitConfig, fit
from model.watch import PREEMPTED, Watch
from model.weights import Card
from pipelines import certified, params, project, tracking
from pipelines import prepare as preparation
from pipelines.labels import BY_NAME
from pipelines.manifest import TRAIN, VALIDATION
from pipelines.output import replacing
from pipelines.parallel import duration
from pipelines.prepare import Preprocessing

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


def main() -> None:
    settings = params.load()
    if "RANK" in os.environ:
        _train_rank(settings)
    else:
        ranks = rank_count(settings.train)
        certified.require(launch(settings, ranks, ranks))
        _launch(ranks, run_folder(settings))


def _launch(ranks: int, folder: Path) -> None:
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
        if not (reason := _run_ranks(ranks)):
            return
        hung = [stacks for stacks in sorted(folder.glob("stacks-*")) if stacks.stat().st_size]
        if hung:
            reason = f"no step for too long; every rank's stack lies in {folder}: {', '.join(s.name for s in hung)}"
        if attempt < restarts:
            log.warning("train: %s; again from the last checkpoint (%d of %d)", reason, attempt + 1, restarts)
    raise ValueError(f"{reason}; {restarts} restarts did not help. Run again to go on from the last checkpoint")


def _run_ranks(ranks: int) -> str:
    """Empty if training ended well, else why the ranks died. A refusal, which a rank told itself, ends the stage."""
    arguments = ["--standalone", "--nproc-per-node", str(ranks), "--shutdown-timeout", grace_s()]
    arguments += ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", "-m", "pipelines", "train"]
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


def launch(settings: params.Params, ranks: int, node: int) -> Launch:
    """What is about to start, as a launch certificate would have it. `node`: ranks on this machine."""
    gpu, memory_bytes = "", 0.0
    if torch.cuda.is_available():
        gpu, memory_bytes = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
    group = int(os.environ.get("MEDSEG_SHARD_RANKS") or node)
    return Launch(ranks, group, gpu, memory_bytes, certified.digest(settings.model, settings.train))


def grace_s() -> str:
    """How long ranks may take to finish a step and save when they are asked to stop."""
    return os.environ.get("MEDSEG_GRACE_S", "120")


def _forward(signum: int, _frame: FrameType | None) -> None:
    """Hand a signal on to the ranks."""
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        os.kill(int(pid), signum)


def rank_count(settings: params.Train) -> int:
    """$MEDSEG_RANKS, or one a GPU, or the most cores that share the global batch evenly. ValueError if unusable."""
    asked = os.environ.get("MEDSEG_RANKS", "")
    shares = settings.global_batch // settings.micro_batch
    if asked:
        if not asked.isdigit() or int(asked) < 1 or shares % int(asked):
            raise ValueError(
                f"MEDSEG_RANKS {asked!r} must be a whole number that divides train.global_batch / train.micro_batch "
                f"= {shares}; unset it to let the machine decide"
            )
        return int(asked)
    available = torch.cuda.device_count() or len(os.sched_getaffinity(0))
    return max(ranks for ranks in range(1, available + 1) if shares % ranks == 0)


def run_folder(settings: params.Params) -> Path:
    """Where this run's checkpoints lie. What would make another run of it - data, parameters, code - changes the name.

    $MEDSEG_CHECKPOINTS names another place than the project; all ranks must see it.
    """
    digest = hashlib.sha256(json.dumps(_flat(settings), sort_keys=True, default=str).encode())
    for path in sorted(Path(model.__path__[0]).glob("*.py")):
        digest.update(path.read_bytes())
    for path in sorted((project.CASES / TRAIN).glob("*")) + sorted((project.CASES / VALIDATION).glob("*")):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    parent = Path(os.environ.get("MEDSEG_CHECKPOINTS") or project.state() / "checkpoints")
    return parent / f"train-{digest.hexdigest()[:12]}"


def _tell_of_unfinished_runs(folder: Path) -> None:
    if not folder.exists() and (others := sorted(folder.parent.glob("train-*"))):
        log.info(
            "train: %s holds %d unfinished run(s) of other parameters, data or code: %s. Remove what is not needed; to "
            "go on with one all the same, rename it to %s",
            folder.parent, len(others), ", ".join(other.name for other in others), folder.name,
        )  # fmt: skip


def _train_rank(settings: params.Params) -> None:
    ranks = join(loader_workers=int(os.environ.get("MEDSEG_LOADERS", "8" if torch.cuda.is_available() else "0")))
    try:
        state = _train(settings, ranks)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            log.warning("rank %d lost another rank (%s)", ranks.rank, str(error).split(". ")[0])
            os._exit(PEER_LOST)  # without waiting for threads that wait for the lost rank
        raise
    if dist.is_initialized():
        dist.destroy_process_group()
    if state.step < settings.train.steps:
        raise SystemExit(PREEMPTED)


def _train(settings: params.Params, ranks: Ranks) -> TrainState:
    certificate = certified.require(launch(settings, ranks.world, ranks.node))
    job = prepare(settings)
    network = parallelize(job.network, job.parallel, ranks, settings.train.seed)
    folder = run_folder(settings)
    if ranks.rank == 0:
        _tell_of_unfinished_runs(folder)
    checkpoints = Checkpoints(folder, ranks, every_s=float(os.environ.get("MEDSEG_CHECKPOINT_S", "600")))
    watch = Watch(folder, ranks.rank, hang_s=float(os.environ.get("MEDSEG_HANG_S", "1800")))
    recorded = {**_flat(settings), "certificate": certificate}
    curves = tracking.Curves(recorded, folder / "mlflow-run") if ranks.rank == 0 else None
    history = History(curves, settings.train.steps)
    state = fit(network, job.stream, job.validation, job.fit, ranks, history.report, checkpoints, watch)
    if state.step < settings.train.steps:
        if ranks.rank == 0:
            log.info("train: stopped on request after step %d, which is saved; run again to go on", state.step)
        return state
    _save(state, job.card, ranks)
    if curves:
        digest = weights.digest(project.TRAINED)
        curves.finish({"weights_sha256": digest})
    checkpoints.remove()
    return state


@dataclass(frozen=True)
class Job:
    network: MedSegFormer
    stream: SampleStream
    validation: list[Case]
    fit: FitConfig
    parallel: ParallelConfig
    card: Card


def prepare(settings: params.Params, cases: Path = project.CASES) -> Job:
    """Everything `fit` needs, from the training and validation folders alone; the same on every rank."""
    training = open_cases(cases / TRAIN, TRAIN)
    if not training:
        raise ValueError(f"{cases / TRAIN} holds no labelled case; add scans, or lower data.test_fraction")
    annotated = {name for case in training for name in case.record.annotated}
    classes = tuple(sorted(annotated, key=lambda name: BY_NAME[name].id))
    structures = {name: BY_NAME[name].id for name in classes}
    sources = sorted({case.record.source for case in training})
    plan = preparation.load(cases / "preprocessing.json")
    patch_size = {source: _patch_size(source, settings.train, plan) for source in sources}
    network_config = PRESETS[settings.model.preset]
    card = Card(settings.model.preset, asdict(network_config), classes, structures, patch_size, plan.to_json(), {})
    config = StreamConfig(
        classes=tuple(structures.values()),
        structures=structures,
        patch_size=patch_size,
        augment=AugmentConfig(**settings.train.augment.model_dump()),
        **{
            name: getattr(settings.train, name)
            for name in ("micro_batch", "seed", "foreground_fraction", "source_balance")
        },
    )
    validation = [
        case for case in open_cases(cases / VALIDATION, VALIDATION) if set(case.record.annotated) <= annotated
    ]
    validation = [case for case in validation if case.record.source in patch_size]
    with torch.device("meta"):
        network = MedSegFormer(network_config, num_classes=len(classes) + 1)
    fit_config = FitConfig(**{name: getattr(settings.train, name) for name in FitConfig.__dataclass_fields__})
    parallel = ParallelConfig(**{name: getattr(settings.train, name) for name in ParallelConfig.__dataclass_fields__})
    return Job(network, SampleStream(training, config), validation, fit_config, parallel, card)


def _patch_size(source: str, settings: params.Train, plan: Preprocessing) -> tuple[int, int, int]:
    """As params.yaml states it, or as planned."""
    d, h, w = params.by_source(settings.patch_size, source) or plan.sources[source].patch_size
    return d, h, w


class History:
    """Tells the log and MLflow how training goes."""

    def __init__(self, curves: tracking.Curves | None, steps: int) -> None:
        self.curves, self.steps = curves, steps

    def report(self, step: int, values: dict[str, float]) -> None:
        if self.curves:
            self.curves.log(step, values)
        if "validation_dice.mean" in values:
            log.info("step %d/%d: validation Dice %.3f", step, self.steps, values["validation_dice.mean"])
        else:
            log.info(
                "step %d/%d: loss %.4f, learning rate %.2e, %.2f steps/s, %.0f%% of peak, %s left",
                step, self.steps, values["loss"], values["learning_rate"], values["steps_per_s"],
                100 * values["model_flops_utilisation"], duration(values["seconds_left"]),
            )  # fmt: skip


def _save(state: TrainState, card: Card, ranks: Ranks) -> None:
    """Every rank takes part: a sharded tensor is put together from all of them, one at a time."""
    if ranks.rank != 0:
        weights.export(None, state.final_weights(), card)
        return
    with replacing(project.TRAINED) as folder:
        folder.mkdir()
        weights.export(folder, state.final_weights(), card)
        _write_history(folder / "history.csv", state.curve)
    log.info("train: weights in %s", project.TRAINED)


def _write_history(path: Path, curve: list[dict[str, float]]) -> None:
    """What is the same on every machine: no times, no throughput."""
    names = sorted({name for point in curve for name in point} - {"step"})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *names])
        writer.writeheader()
        writer.writerows({k: round(v, 6) for k, v in point.items()} for point in curve)


def _flat(settings: params.Params) -> dict[str, object]:
    blocks = {"model": settings.model.model_dump(), "train": settings.train.model_dump()}
    return {f"{block}.{name}": value for block, values in blocks.items() for name, value in values.items()}
