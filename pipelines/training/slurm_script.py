"""The batch job of a training stage: sbatch's options, the variables that it sees, and its script.

One job spans all machines: srun starts the stage once on each, and each starts its ranks (launcher.py). A job that had
to stop - preempted, out of time, a launcher killed - ends with the exit code of one that goes on, and queues itself
again, a bounded number of times; Slurm itself does after the loss of a machine (--requeue).
"""

import os
import shlex
import sys
import zlib
from pathlib import Path

from pipelines.training.wanted import Machines
from pipelines.work import environment, preemption, project

# What a job sees of our environment, beside MEDSEG_SLURM_EXPORT. Not: what is this machine's alone, and secrets.
PASSED = {
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "OMP_NUM_THREADS",
    "DO_NOT_TRACK",
}
# Also what decides the bits: kernels that oneDNN, PyTorch, MKL and cuBLAS may choose.
FAMILIES = ("MLFLOW_", "NCCL_", "GLOO_", "UCX_", "TORCH_", "PYTORCH_", "ONEDNN_", "ATEN_", "MKL_", "CUBLAS_")
OURS = (
    "ranks", "rendezvous", "loaders", "shard_ranks", "checkpoints", "checkpoint_s", "hang_s", "grace_s", "restarts",
    "uncertified", "deterministic", "debug",
)  # fmt: skip
SCRIPT = """#!/bin/bash
# medseg, stage {stage}. Exit code {preempted}: asked to stop, and saved.
trap : USR1 TERM  # for the ranks, which this shell waits for
again=${{SLURM_RESTART_COUNT:-0}}
if [ "$again" -gt {requeues} ]; then
    echo "{stage}: was queued again $again times, and MEDSEG_REQUEUES = {requeues}; run again to go on"
    exit 1
fi
{prologue}
export MEDSEG_IN_JOB=1 MEDSEG_ROOT={root} MEDSEG_RANKS={ranks}
srun --export=ALL --ntasks-per-node=1 --cpus-per-task={cpus} --kill-on-bad-exit=0 --wait={wait_s} \\
    {command}
code=$?
if [ $code -eq {preempted} ] || [ $code -ge 128 ]; then
    if [ "$again" -lt {requeues} ] && scontrol -o show job "$SLURM_JOB_ID" | grep -q "JobState=RUNNING "; then
        echo "{stage}: job $SLURM_JOB_ID is queued again ($((again + 1)) of {requeues})"
        scontrol requeue "$SLURM_JOB_ID" && sleep 60  # until Slurm ends this
    fi
fi
exit $code
"""
LINGER_S = 60  # after the ranks' grace: for the launchers of other machines to end, too


def job_name(run: str) -> str:
    """Of one run of one project: who finds it in the queue need not submit it again."""
    return f"medseg-{run}-{zlib.crc32(str(project.root().resolve()).encode()):08x}"


def options(name: str, log: Path, asked: Machines) -> list[str]:
    ours = environment.read()
    chosen = {
        "account": ours.slurm_account, "partition": ours.slurm_partition, "qos": ours.slurm_qos,
        "constraint": ours.slurm_constraint, "reservation": ours.slurm_reservation,
        "gpus-per-node": asked.gpus or None,
    }  # fmt: skip
    try:
        extra = shlex.split(ours.slurm_extra or "")
    except ValueError as error:
        raise ValueError(f"MEDSEG_SLURM_EXTRA = {ours.slurm_extra!r}: {error}; close what is open") from None
    return [
        f"--job-name={name}", f"--nodes={asked.count}", "--ntasks-per-node=1", f"--cpus-per-task={asked.cpus}",
        "--requeue", f"--signal=USR1@{ours.grace_s}", "--open-mode=append", f"--output={log}",
        f"--chdir={project.root().resolve()}", f"--export={','.join(passed())}",
        *(f"--{option}={value}" for option, value in chosen.items() if value), *extra,
    ]  # fmt: skip


def passed() -> list[str]:
    """Names of the variables that a job sees, those that are set."""
    further = {name.strip() for name in (environment.read().slurm_export or "").split(",")}
    wished = PASSED | further | {f"MEDSEG_{name.upper()}" for name in OURS}
    return sorted(name for name in os.environ if name in wished or name.startswith(FAMILIES))


def script(stage: str, asked: Machines) -> str:
    ours = environment.read()
    return SCRIPT.format(
        stage=stage, preempted=preemption.EXIT_CODE, requeues=ours.requeues, prologue=ours.slurm_prologue or "",
        root=shlex.quote(str(project.root().resolve())), ranks=asked.ranks, cpus=asked.cpus,
        wait_s=ours.grace_s + LINGER_S, command=shlex.join(_command(stage, asked)),
    )  # fmt: skip


def _command(stage: str, asked: Machines) -> list[str]:
    ours, root = environment.read(), str(project.root().resolve())
    if not ours.image:
        return [sys.executable, "-m", "pipelines", stage]
    folders = [root, *([str(ours.checkpoints)] if ours.checkpoints else [])]
    binds = [part for folder in folders for part in ("--bind", folder)]
    devices = ["--nv"] if asked.gpus else []
    return ["apptainer", "exec", *devices, *binds, "--pwd", root, ours.image, "python", "-m", "pipelines", stage]
