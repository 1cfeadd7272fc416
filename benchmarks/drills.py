"""Exact resume, drilled: SIGKILL a training run at random moments, let all its ranks hang, compare the weights.

Run     make drills      # or: python -m benchmarks.drills [--count 20] [--seed 0]        about 10 min on 2 cores
Prints  a line per drill: when it was killed, whether a checkpoint was being written, whether the weights are equal to
        the bit to those of an undisturbed run; then how many of how many were; then the same of a run whose ranks all
        hang at a random step. Exit code 1 unless all were.

The train stage on two ranks, on phantoms, with a checkpoint after every step. Every second drill waits until a
checkpoint is being written and strikes within its writing. Agent and ranks get SIGKILL at once: nothing can clean up.
Where all hang, nobody strikes: the launcher itself must find that out, keep every rank's stack and go on from the
checkpoint.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.pipelines.training.train_stage import hang, prepare, rank_pids, told, training, wait_for_step, weights

STEPS = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        print("preparing: phantoms and an undisturbed run", flush=True)
        project = prepare(Path(scratch) / "project", STEPS)
        seconds = undisturbed_run(project)
        expected = weights(project)
        equal = 0
        for number in range(1, arguments.count + 1):
            moment = kill_once(project, rng, seconds, while_saving=number % 2 == 0)
            finish(project)
            same = weights(project) == expected
            equal += same
            verdict = "equal to the bit" if same else "DIFFERENT"
            print(f"drill {number:2d}: killed {moment}; weights {verdict}", flush=True)
        print(f"{equal} of {arguments.count} runs ended bit-equal to the undisturbed one", flush=True)
        moment = let_all_ranks_hang(project, rng)
        same = weights(project) == expected
        print(f"all ranks hung {moment}; weights {'equal to the bit' if same else 'DIFFERENT'}")
    return 0 if same and equal == arguments.count else 1


def undisturbed_run(project: Path) -> float:
    """How long it takes from its first step to its last, in seconds."""
    with training(project) as process:
        wait_for_step(project, 1)
        start = time.monotonic()
        if process.wait(timeout=600):
            raise RuntimeError(told(project))
        return time.monotonic() - start


def kill_once(project: Path, rng: random.Random, seconds: float, while_saving: bool) -> str:
    """Where it struck, in words."""
    with training(project) as process:
        if while_saving:
            wait_for_step(project, rng.randint(1, STEPS - 10))
            while not partial(project):
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
        else:
            wait_for_step(project, 1)
            time.sleep(rng.uniform(0, 0.8 * seconds))
        for pid in (process.pid, *rank_pids(process.pid)):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    done = max((int(path.name[5:]) for path in project.glob(".medseg/checkpoints/*/step-*")), default=0)
    return f"after step {done:2d}{', while saving' if partial(project) else ''}"


def let_all_ranks_hang(project: Path, rng: random.Random) -> str:
    """One run from its beginning to its end. Where it hung, in words."""
    with training(project, MEDSEG_HANG_S="15", MEDSEG_RESTARTS="1") as process:
        step = rng.randint(1, STEPS - 20)
        wait_for_step(project, step)
        hang(project, 1, 0)
        if process.wait(timeout=600):
            raise RuntimeError(told(project))
    if "stacks-rank-0.txt, stacks-rank-1.txt; again from the last checkpoint (1 of 1)" not in told(project):
        raise RuntimeError(f"the ranks did not hang, or a stack is missing:\n{told(project)}")
    return f"after step {step:2d}"


def partial(project: Path) -> list[Path]:
    return list(project.glob(".medseg/checkpoints/*/.step-*"))


def finish(project: Path) -> None:
    with training(project) as process:
        if process.wait(timeout=600):
            raise RuntimeError(told(project))
    if "resuming from checkpoint" not in told(project):
        raise RuntimeError(f"the run did not go on from a checkpoint:\n{told(project)}")


if __name__ == "__main__":
    sys.exit(main())
