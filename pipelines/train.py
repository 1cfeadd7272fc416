"""Train the segmentation network (DVC stage `train`).

Reads   data/cases/train, data/cases/validation, data/cases/preprocessing.json, params.yaml: model, train
Writes  models/train/: model.safetensors, history.csv; curves to MLflow
Run     python -m pipelines train       # MEDSEG_RANKS=2 asks for two ranks

The stage is torchrun's agent and starts the ranks. How many, on how many threads and where are placement, not
parameters: MEDSEG_RANKS (default: all GPUs, else as many cores as share the batch evenly).
"""

import csv
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from model import weights
from model.augment import AugmentConfig
from model.casefile import Case, open_cases
from model.config import PRESETS
from model.dataset import SampleStream, StreamConfig
from model.network import MedSegFormer
from model.trainer import FitConfig, Ranks, fit
from model.weights import Card
from pipelines import params, preprocess, project, tracking
from pipelines.labels import BY_NAME
from pipelines.manifest import TRAIN, VALIDATION
from pipelines.output import replacing
from pipelines.parallel import duration

log = logging.getLogger(__name__)

# glibc returns large tensors to the kernel at every free; keeping them nearly halved the CPU time
# of a step of nnU-Net's network on a CPU.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def main() -> None:
    if "RANK" in os.environ:
        _train_rank(params.load())
    else:
        _launch(rank_count(params.load().train))


def _launch(ranks: int) -> None:
    """Start the ranks, as torchrun does, with its agent in this process. What stopped a rank, it said itself."""
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    for name, value in {"OMP_NUM_THREADS": str(threads), **MALLOC}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    arguments = ["--standalone", "--nproc-per-node", str(ranks), "-m", "pipelines", "train"]
    try:
        torchrun.run(torchrun.parse_args(arguments))
    except ChildFailedError:
        raise SystemExit(1) from None
    except SignalException as stopped:
        raise SystemExit(128 + stopped.sigval) from None


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


def _train_rank(settings: params.Params) -> None:
    ranks = _join()
    try:
        job = prepare(settings)
        curves = tracking.Curves(_flat(settings)) if ranks.rank == 0 else None
        history = History(curves, settings.train.steps)
        average = fit(job.network.to(ranks.device), job.stream, job.validation, job.fit, ranks, history.report)
        if ranks.rank == 0:
            state = average.average if average else job.network.state_dict()
            _save(state, job.card, history)
            if curves:
                curves.finish({"weights_sha256": tracking.sha256(project.TRAINED / "model.safetensors")})
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join() -> Ranks:
    """Join the other ranks: gloo on CPU, NCCL on GPUs."""
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    return Ranks(rank, world, device, loader_workers=int(os.environ.get("MEDSEG_LOADERS", "8" if cuda else "0")))


@dataclass(frozen=True)
class Job:
    network: MedSegFormer
    stream: SampleStream
    validation: list[Case]
    fit: FitConfig
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
    patch_size = {source: params.by_source(settings.train.patch_size, source) for source in sources}
    plan = preprocess.load_plan(cases / "preprocessing.json")
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
    torch.manual_seed(settings.train.seed)
    network = MedSegFormer(network_config, num_classes=len(classes) + 1)
    fit_config = FitConfig(**{name: getattr(settings.train, name) for name in FitConfig.__dataclass_fields__})
    return Job(network, SampleStream(training, config), validation, fit_config, card)


class History:
    """Tells the log, MLflow and history.csv how training goes. The file holds what is the same on every machine."""

    def __init__(self, curves: tracking.Curves | None, steps: int) -> None:
        self.curves, self.steps = curves, steps
        self.validation: list[dict[str, float]] = []

    def report(self, step: int, values: dict[str, float]) -> None:
        if self.curves:
            self.curves.log(step, values)
        if "validation_dice.mean" in values:
            self.validation.append({"step": step, **values})
            log.info("step %d/%d: validation Dice %.3f", step, self.steps, values["validation_dice.mean"])
        else:
            log.info(
                "step %d/%d: loss %.4f, learning rate %.2e, %.1f patches/s, %s left",
                step, self.steps, values["loss"], values["learning_rate"], values["patches_per_s"],
                duration(values["seconds_left"]),
            )  # fmt: skip

    def write(self, path: Path) -> None:
        names = sorted({name for row in self.validation for name in row} - {"step"})
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *names])
            writer.writeheader()
            writer.writerows({k: round(v, 6) for k, v in row.items()} for row in self.validation)


def _save(state: dict[str, torch.Tensor], card: Card, history: History) -> None:
    with replacing(project.TRAINED) as folder:
        folder.mkdir()
        weights.save(folder / "model.safetensors", state, card)
        history.write(folder / "history.csv")
    log.info("train: weights in %s", project.TRAINED / "model.safetensors")


def _flat(settings: params.Params) -> dict[str, object]:
    blocks = {"model": settings.model.model_dump(), "train": settings.train.model_dump()}
    return {f"{block}.{name}": value for block, values in blocks.items() for name, value in values.items()}
