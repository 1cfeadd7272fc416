"""Slurm, through its programs: which job has a name, how it does, its end. Nothing of ours is in here.

Raises ValueError where Slurm refuses; a controller that does not answer is waited for by the caller (`look` is None).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# After these a job does nothing any more; Slurm's other states (CONFIGURING, COMPLETING, REQUEUED...) pass.
OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
ANSWER_S = 60.0


@dataclass(frozen=True)
class Look:
    """At a job. `reason`: why it waits. `code`: its exit code, once it is over and known."""

    state: str
    reason: str = ""
    code: int | None = None

    @property
    def over(self) -> bool:
        return self.state in OVER


def submit(options: Sequence[str], script: str, variables: Mapping[str, str]) -> str:
    """The job's number. `variables`: all that sbatch sees; its option --export chooses among them."""
    done = _call(["sbatch", "--parsable", *options], script, variables)
    if done.returncode:
        raise ValueError(f"sbatch refuses the job: {_said(done)}; see Slurm's variables in `medseg env`")
    return done.stdout.strip().partition(";")[0]  # `number;cluster`


def active(name: str) -> dict[str, str]:
    """Our own jobs of this name that are not over: number -> state."""
    done = _call(["squeue", "--noheader", "--user", str(os.getuid()), "--name", name, "--format", "%A|%T"])
    if done.returncode:
        raise ValueError(f"squeue does not tell whether job {name} runs already: {_said(done)}; try again")
    return {number: state for number, _, state in (line.partition("|") for line in done.stdout.split())}


def look(job: str) -> Look | None:
    """None if nobody answers. Squeue knows a job until some minutes after its end, then the accounting does."""
    done = _call(["squeue", "--noheader", "--jobs", job, "--states", "all", "--format", "%T|%r"])
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    state, _, reason = done.stdout.strip().partition("|")
    if state and state not in OVER:
        return Look(state, reason)
    return _accounted(job) or _remembered(job) or (Look(state) if state else Look("COMPLETED"))


def cancel(name: str) -> None:
    """By its name: whoever is interrupted while he submits a job does not know its number."""
    done = _call(["scancel", "--user", str(os.getuid()), "--name", name])
    if done.returncode:
        raise ValueError(f"scancel --name {name}: {_said(done)}; cancel the job by hand")


def hasten(job: str, seconds: int) -> None:
    """Slurm holds a requeued job back for two minutes (AuthInfo=cred_expire); its owner may move that. Best effort."""
    _call(["scontrol", "update", f"JobId={job}", f"StartTime=now+{seconds}"])


def _accounted(job: str) -> Look | None:
    if not shutil.which("sacct"):
        return None
    done = _call(["sacct", "--noheader", "--parsable2", "--allocations", "--jobs", job, "--format", "State,ExitCode"])
    state, _, code = (done.stdout.splitlines() or [""])[-1].partition("|")
    return Look(state.split()[0], code=_code(code)) if state.strip() and not done.returncode else None


def _remembered(job: str) -> Look | None:
    """By the controller, where there is no accounting."""
    found = dict(re.findall(r"(JobState|ExitCode)=(\S+)", _call(["scontrol", "-o", "show", "job", job]).stdout))
    return Look(found["JobState"], code=_code(found.get("ExitCode", ""))) if "JobState" in found else None


def _code(told: str) -> int | None:
    """`75:0` is an exit code, `0:9` a signal; as a shell has them."""
    code, _, signum = told.partition(":")
    return (int(code) or (128 + int(signum) if signum not in ("", "0") else 0)) if code.isdigit() else None


def _call(
    command: list[str], script: str | None = None, variables: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    if not shutil.which(command[0]):
        raise ValueError(f"{command[0]} not found, and MEDSEG_LAUNCHER is slurm; run on a machine of the cluster")
    try:
        return subprocess.run(
            command, input=script, env=variables, capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} did not answer within {ANSWER_S:.0f} s")


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    return " ".join(done.stderr.split()) or f"exit code {done.returncode}"
