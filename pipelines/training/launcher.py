"""Start the ranks of a training stage on this machine and see them through, or have a cluster do it (slurm_stage.py).

The stage is torchrun's agent and starts the ranks, each of which is the same program again (rank.py). How many, on how
many threads and where are placement, not parameters: MEDSEG_RANKS (default: all GPUs, else as many cores as share the
batch evenly), and which machines (nodes.py). A run that was stopped or killed goes on from its last checkpoint; ranks
that die or hang are replaced at once, on all machines (meeting.py), up to MEDSEG_RESTARTS times. One that was asked to
stop leaves a note (preemption.py). Nothing here has a part in what comes out.
"""

import logging
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

import torch
from torch.distributed import DistError
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from model.engine.watch import PREEMPTED, STOP_SIGNALS
from pipelines import params
from pipelines.params.recipe import Optimisation
from pipelines.training import allocators, certificates, finished, nodes
from pipelines.training.meeting import Meeting, Start
from pipelines.training.nodes import Nodes
from pipelines.training.rank import PEER_LOST, LearningStage, as_rank, block_of, run_folder
from pipelines.training.slurm_stage import SlurmStage
from pipelines.training.wanted import asked_for
from pipelines.work import environment, preemption

log = logging.getLogger(__name__)

HANDLED = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # by torchrun: handed on to the ranks


def main(stage: LearningStage) -> None:
    if "RANK" in os.environ:
        allocators.require()
        as_rank(stage, params.load())
        return
    settings, ours = params.load(), environment.read()
    block, folder = block_of(stage.name, settings), run_folder(stage.name, settings)
    if ours.in_job:
        if not finished.kept(folder.name):  # it is, if a job that was through is started again
            _on_machines(stage.name, settings, block, folder)
    elif finished.take(stage.name, folder.name):
        log.info("%s: a cluster's job finished this run; its result is taken", stage.name)
    elif ours.launcher == "slurm":
        SlurmStage(stage.name, folder.name, asked_for(settings.model, block)).see_through()
    else:
        _on_machines(stage.name, settings, block, folder)


def _on_machines(stage: str, settings: params.Params, block: Optimisation, folder: Path) -> None:
    """On this one, and on those where the same command was started."""
    machines = nodes.here()
    ranks = rank_count(block, machines.count)
    certificates.require(certificates.launch(settings.model, block, ranks * machines.count, ranks))
    preemption.forget()
    try:
        Launcher(stage, ranks, machines, folder).see_through()
    except SystemExit as end:
        if end.code == PREEMPTED:
            preemption.note(stage)
        raise
    if environment.read().in_job and machines.rank == 0:
        finished.keep(stage, folder.name)


class Launcher:
    """Of one stage on this machine: `ranks` of them here, their stacks in `folder` if they hang."""

    def __init__(self, stage: str, ranks: int, machines: Nodes, folder: Path) -> None:
        self.stage, self.ranks, self.machines, self.folder = stage, ranks, machines, folder
        first = machines.rank * ranks
        self.stacks = [folder / f"stacks-rank-{rank}.txt" for rank in range(first, first + ranks)]

    def see_through(self) -> None:
        """Start the ranks, as torchrun does, with its agent in this process; again if they die or hang.

        Returns when training is done. SystemExit if ranks refused, which they told themselves, or were asked to stop.
        """
        threads = max(1, len(os.sched_getaffinity(0)) // self.ranks)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        allocators.set_for_ranks()
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        signal.signal(signal.SIGUSR2, self._hand_on)
        for signum in STOP_SIGNALS:
            signal.signal(signum, _stop)  # until torchrun handles them
        if self.machines.count == 1:
            self._with_restarts(None)
            return
        says = {"MEDSEG_NODES": self.machines.count, "MEDSEG_RANKS": self.ranks, "the run": self.folder.name}
        with Meeting(self.machines, says, environment.read().grace_s) as meeting:
            self._with_restarts(meeting)

    def _with_restarts(self, meeting: Meeting | None) -> None:
        restarts = environment.read().restarts
        for attempt in range(restarts + 1):
            for stacks in self.stacks:
                stacks.unlink(missing_ok=True)
            try:
                reason = self._attempt(meeting)
            except SignalException:  # from now on torchrun's handler raises it, wherever we are
                raise SystemExit(PREEMPTED) from None
            if not reason:
                return
            if attempt < restarts:
                again = f"again from the last checkpoint ({attempt + 1} of {restarts})"
                log.warning("%s: %s; %s", self.stage, reason, again)
        raise ValueError(f"{reason}; {restarts} restarts did not help. Run again to go on from the last checkpoint")

    def _attempt(self, meeting: Meeting | None) -> str:
        """Empty if training ended well, else why the ranks died."""
        start = meeting.attend() if meeting else None
        try:
            with meeting.watching(start, self._end_ranks) if meeting and start else nullcontext():
                torchrun.run(torchrun.parse_args(self._arguments(start)))
        except ChildFailedError as error:
            return self._reason({rank: failure.exitcode for rank, failure in error.failures.items()})
        except DistError as error:
            return f"the machines lost each other ({str(error).splitlines()[0]})"
        return ""

    def _arguments(self, start: Start | None) -> list[str]:
        """Torchrun's. Its static rendezvous is the one that leaves rank 0 on machine 0."""
        among = ["--standalone"]
        if start:
            among = ["--nnodes", str(self.machines.count), "--node-rank", str(self.machines.rank)]
            among += ["--master-addr", self.machines.host, "--master-port", str(start.port)]
            among += ["--rdzv-id", f"{self.folder.name}-{start.number}", "--rdzv-conf", "timeout=60"]
        return [
            *among, "--nproc-per-node", str(self.ranks), "--shutdown-timeout", str(environment.read().grace_s),
            "--signals-to-handle", HANDLED, "-m", "pipelines", self.stage,
        ]  # fmt: skip

    def _reason(self, codes: dict[int, int]) -> str:
        """Why ranks died, by their exit codes. SystemExit if there is nothing to start again."""
        if hung := self._keep_stacks():
            return f"no step for too long; every rank's stack lies in {hung[0].parent}: {_names(hung)}"
        if PREEMPTED in codes.values():
            if self.machines.count == 1:
                raise SystemExit(PREEMPTED)
            return "the ranks were asked to stop by another machine"  # which says so at the meeting, or was lost
        if crashed := {rank: code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM}:
            rank, code = next(iter(crashed.items()))
            return f"rank {rank} was ended by {signal.Signals(-code).name}"
        if PEER_LOST in codes.values() and 1 not in codes.values():
            return "a rank lost the others"
        raise SystemExit(1)

    def _keep_stacks(self) -> list[Path]:
        """Those of a hang, moved to where neither the next attempt nor the end of the run removes them."""
        written = [stacks for stacks in self.stacks if stacks.exists() and stacks.stat().st_size]
        kept = self.folder.parent / "hung" / f"{self.folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        for stacks in written:
            kept.mkdir(parents=True, exist_ok=True)
            stacks.rename(kept / stacks.name)
        return [kept / stacks.name for stacks in written]

    def _hand_on(self, signum: int, _frame: FrameType | None) -> None:
        """A signal, to the ranks."""
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            os.kill(int(pid), signum)

    def _end_ranks(self) -> None:
        log.warning("another machine lost its ranks; those here, which wait for them, are ended")
        self._hand_on(signal.SIGKILL, None)


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _stop(_signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(PREEMPTED)


def rank_count(settings: Optimisation, machines: int = 1) -> int:
    """Of this machine: $MEDSEG_RANKS, or one a GPU, or the most cores that share the global batch evenly.

    Raises ValueError if the batch cannot be shared by so many.
    """
    asked = environment.read().ranks
    shares = settings.global_batch // settings.micro_batch
    batch = f"{settings.block}.global_batch / {settings.block}.micro_batch = {shares}"
    if asked:
        if shares % (asked * machines):
            times = f" on each of {machines} machines" if machines > 1 else ""
            remedy = "choose another number" if machines > 1 else "unset it to let the machine decide"
            raise ValueError(f"MEDSEG_RANKS = {asked}{times} must divide {batch}; {remedy}")
        return asked
    available = torch.cuda.device_count() or len(os.sched_getaffinity(0))
    possible = [ranks for ranks in range(1, available + 1) if shares % (ranks * machines) == 0]
    if not possible:
        raise ValueError(f"MEDSEG_NODES = {machines} must divide {batch}; use fewer machines, or a larger batch")
    return possible[-1]
