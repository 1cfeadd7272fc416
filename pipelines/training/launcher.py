"""Start the ranks of a training stage and see them through.

The stage is torchrun's agent and starts the ranks, each of which is the same program again (rank.py). How many, on how
many threads and where are placement, not parameters: MEDSEG_RANKS (default: all GPUs, else as many cores as share the
batch evenly). A run that was stopped or killed goes on from its last checkpoint; a rank that dies is replaced at once,
up to MEDSEG_RESTARTS times. One that was asked to stop leaves a note (preemption.py).
Nothing here has a part in what comes out.
"""

import logging
import os
import signal
from pathlib import Path
from types import FrameType

import torch
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from model.engine.watch import PREEMPTED
from pipelines import params
from pipelines.params.recipe import Optimisation
from pipelines.training import certificates
from pipelines.training.rank import PEER_LOST, LearningStage, as_rank, block_of, run_folder
from pipelines.work import environment, preemption

log = logging.getLogger(__name__)

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


def main(stage: LearningStage) -> None:
    settings = params.load()
    if "RANK" in os.environ:
        as_rank(stage, settings)
        return
    block = block_of(stage.name, settings)
    ranks = rank_count(block)
    certificates.require(certificates.launch(settings.model, block, ranks, ranks))
    preemption.forget()
    try:
        _launch(stage.name, ranks, run_folder(stage.name, settings))
    except SystemExit as end:
        if end.code == PREEMPTED:
            preemption.note(stage.name)
        raise


def _launch(stage: str, ranks: int, folder: Path) -> None:
    """Start the ranks, as torchrun does, with its agent in this process; again if one of them dies."""
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    for name, value in {"OMP_NUM_THREADS": str(threads), **MALLOC, **GPU_MALLOC}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGUSR2, _forward)
    restarts = environment.read().restarts
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
    arguments = ["--standalone", "--nproc-per-node", str(ranks), "--shutdown-timeout", str(environment.read().grace_s)]
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


def _forward(signum: int, _frame: FrameType | None) -> None:
    """Hand a signal on to the ranks."""
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        os.kill(int(pid), signum)


def rank_count(settings: Optimisation) -> int:
    """$MEDSEG_RANKS, or one a GPU, or the most cores that share the global batch evenly. ValueError if unusable."""
    asked = environment.read().ranks
    shares = settings.global_batch // settings.micro_batch
    if asked:
        if shares % asked:
            raise ValueError(
                f"MEDSEG_RANKS = {asked} must divide {settings.block}.global_batch / {settings.block}.micro_batch = "
                f"{shares}; unset it to let the machine decide"
            )
        return asked
    available = torch.cuda.device_count() or len(os.sched_getaffinity(0))
    return max(ranks for ranks in range(1, available + 1) if shares % ranks == 0)
