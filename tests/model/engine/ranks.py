"""Start real ranks over gloo, each a process of its own, and train a small network with them."""

import multiprocessing
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from model import weights
from model.data.casefile import Case
from model.data.dataset import SampleStream
from model.engine import parallelize as parallelize_module
from model.engine import progress
from model.engine.checkpoint import Checkpoints
from model.engine.parallelize import KEPT_SHARE, ParallelConfig, materialise, parallelize
from model.engine.progress import Report
from model.engine.ranks import Ranks
from model.engine.state import TrainState
from model.engine.trainer import FitConfig, Run, fit
from model.engine.watch import Watch
from model.network.config import PRESETS
from model.network.layers import BlockNetwork
from model.network.medsegformer import MedSegFormer
from model.tasks.masked import MaskedAutoencoder
from model.tasks.probe import Probe
from model.weights_file import Card
from tests.model.engine.test_trainer import CASES, FIT, STREAM, TASK
from tests.model.tasks.test_masked import TASK as MASKED
from tests.model.tasks.test_masked import UNLABELLED
from tests.tolerances import loss_parting, norm_parting, weights_agree, within

CONFIG = replace(FIT, steps=5, global_batch=4, validate_every=5, learning_rate=5e-5)
PRETRAINING = replace(MASKED, probe=Probe(STREAM, tuple(CASES[:3])))
CARD = Card("nano", {}, (), {}, {}, {}, {})
VOXELS = CONFIG.global_batch * 16**3  # of a step
STRUCTURE_VOXELS = 6 * 12 * 12  # of each structure of each case, all within its validation patch


@dataclass(frozen=True)
class Job:
    """A run on `world` ranks, `node` of them to a machine; its weights go to `folder`/model.safetensors."""

    folder: Path
    world: int = 1
    node: int = 1
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    config: FitConfig = CONFIG
    micro_batch: int = 1
    cases: tuple[Case, ...] = tuple(CASES)
    checkpoints: Path | None = None
    every_s: float = 1e9
    pretraining: bool = False
    encoder: Path | None = None  # to start from
    block_by_block: bool = False  # as a network too large to stay gathered is sharded


Work = Callable[[int, Job], None]


class _Kept(NamedTuple):
    process: BaseProcess
    jobs: Connection


_KEPT: dict[int, list[_Kept]] = {}  # world -> its ranks


def run(job: Job, work: Work | None = None) -> Path:
    """All ranks of a job; its folder. Raises RuntimeError with the trace of the first rank to fail.

    Ranks are kept for the next job, since what torch prepares when it first shards a network takes them seconds: what
    `work` changes for all, it changes back.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    kept = _KEPT.pop(job.world, None) or [_start(rank, job.world, job.folder) for rank in range(job.world)]
    for each in kept:
        each.jobs.send((work or train_and_save, job))
    try:
        _await(kept)
    except BaseException:
        _end(kept)  # those that are left may wait for ever for one that is gone
        raise
    _KEPT[job.world] = kept
    return job.folder


def end_kept() -> None:
    """For the end of a file of tests."""
    while _KEPT:
        _end(_KEPT.popitem()[1])
    _end_fork_server()


def _end_fork_server() -> None:
    """A process has one, which keeps what it was started with: it would fork ranks without torch, and the sandboxes of
    scans without what they import, a second of CPU time for each of hundreds."""
    if not multiprocessing.active_children():  # it would wait for them
        forkserver._forkserver._stop()  # type: ignore[attr-defined]


def _end(ranks: list[_Kept]) -> None:
    for each in ranks:
        each.process.kill()
    for each in ranks:
        each.process.join()
        each.jobs.close()


def _start(rank: int, world: int, folder: Path) -> _Kept:
    context = multiprocessing.get_context("forkserver")
    if not rank:
        _end_fork_server()
        context.set_forkserver_preload(["torch._dynamo", "tests.model.engine.ranks"])  # once, not once a rank
    ours, its = context.Pipe()
    process = context.Process(target=_wait_for_jobs, args=(rank, world, folder / "meeting", its), daemon=True)
    process.start()
    its.close()
    return _Kept(process, ours)


def _await(ranks: list[_Kept]) -> None:
    left = {each.jobs: rank for rank, each in enumerate(ranks)}
    while left:
        for jobs in wait(list(left)):
            assert isinstance(jobs, Connection)
            rank = left.pop(jobs)
            try:
                failed = jobs.recv()
            except EOFError:
                failed = "it is gone"
            if failed:
                raise RuntimeError(f"rank {rank}: {failed}")


def _wait_for_jobs(rank: int, world: int, meeting: Path, jobs: Connection) -> None:
    torch.set_num_threads(1)
    progress.REPORT_EVERY_S = 1e9  # one report, at the end: on a slow machine, too, it is of the same steps
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world)  # for as long as they live
    seed = torch.initial_seed()  # that every process begins with
    while True:
        try:
            work, job = jobs.recv()
        except EOFError:  # the tests are over
            return
        torch.manual_seed(seed)
        try:
            work(rank, job)
            jobs.send("")
        except BaseException:
            jobs.send(traceback.format_exc())


def train_and_save(rank: int, job: Job) -> None:
    ranks = meet(rank, job)
    state, reported = train(job, ranks)
    weights.export(job.folder if rank == 0 else None, state.final_weights(), CARD)
    torch.save({"reported": reported, "numbers": state.numbers()}, job.folder / f"{rank}.pt")


def meet(rank: int, job: Job) -> Ranks:
    parallelize_module.KEPT_SHARE = 0.0 if job.block_by_block else KEPT_SHARE
    control, saving = (dist.new_group(backend="gloo") if job.world > 1 else None for _ in range(2))
    return Ranks(rank, job.world, torch.device("cpu"), job.node, 0, control, saving)


def train(
    job: Job, ranks: Ranks, on_report: Report = lambda step, values: None
) -> tuple[TrainState, list[tuple[int, dict[str, float]]]]:
    parallel = parallelize(on_meta(job), job.parallel, ranks, job.config.precision, seed=0)
    if job.encoder:
        weights.load_encoder(parallel.network, job.encoder)
    stream = replace(UNLABELLED if job.pretraining else STREAM, micro_batch=job.micro_batch)
    folder = job.checkpoints or job.folder / "checkpoints"
    reported: list[tuple[int, dict[str, float]]] = []

    def report(step: int, values: dict[str, float]) -> None:
        reported.append((step, values))
        on_report(step, values)

    run = Run(
        parallel=parallel,
        task=PRETRAINING if job.pretraining else TASK,
        stream=SampleStream(job.cases, stream),
        validation=job.cases[:2],
        config=job.config,
        ranks=ranks,
        report=report,
        checkpoints=Checkpoints(folder, ranks, job.every_s),
        watch=Watch(folder, ranks.rank),
    )
    return fit(run), reported


def results(folder: Path, rank: int = 0) -> dict[str, Any]:
    return torch.load(folder / f"{rank}.pt", weights_only=True)


def on_meta(job: Job) -> BlockNetwork:
    with torch.device("meta"):
        return MaskedAutoencoder(PRESETS["nano"]) if job.pretraining else MedSegFormer(PRESETS["nano"], 4)


def untrained(job: Job) -> BlockNetwork:
    """The network as every run of the job begins."""
    network = on_meta(job)
    materialise(network, torch.device("cpu"), seed=0)
    return network


def trained(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def reported(folder: Path) -> dict[str, float]:
    """What a run said last."""
    return {name: value for _, values in results(folder)["reported"] for name, value in values.items()}


def same_training(ours: Path, theirs: Path, job: Job) -> None:
    """Assert that the runs in two folders, both of this job's configuration, are one but for rounding.

    The loss is no part of it: a run that was resumed reports the mean of other steps.
    """
    network = untrained(job)
    weights_agree(trained(ours), trained(theirs), network, job.config, VOXELS)
    norm = reported(theirs)["gradient_norm"]
    within(abs(reported(ours)["gradient_norm"] / norm - 1), norm_parting(network, VOXELS), "norm of the gradient")


def same_loss(ours: Path, theirs: Path, job: Job) -> None:
    bound = loss_parting(untrained(job), VOXELS, job.config, reported(theirs)["gradient_norm"])
    within(abs(reported(ours)["loss"] - reported(theirs)["loss"]), bound, "loss")
