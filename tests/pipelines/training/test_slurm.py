"""A job of Slurm's: what sbatch is told, what the script does with its ranks' end, what the programs' answers mean.

The programs here are stand-ins; a real cluster is in test_on_clusters.py.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.params import profiles
from pipelines.training import certificates, slurm, slurm_script
from pipelines.training.slurm import Look
from pipelines.training.wanted import Machines, asked_for

TWO = Machines(count=2, ranks=8, cpus=64, gpus=8)


@pytest.fixture(autouse=True)
def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MEDSEG_", "SLURM_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)


def program(folder: Path, name: str, body: str) -> None:
    """A stand-in, first in PATH; it notes its arguments in the file NAME.calls."""
    (folder / "bin").mkdir(exist_ok=True)
    file = folder / "bin" / name
    file.write_text(f'#!/bin/bash\necho "$*" >> {folder}/{name}.calls\n{body}\n')
    file.chmod(0o755)
    if str(folder / "bin") not in os.environ["PATH"]:
        os.environ["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    return tmp_path


def test_sbatch_is_told_how_to_treat_the_job_and_what_the_site_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("GRACE_S", "300"), ("SLURM_ACCOUNT", "p1"), ("SLURM_QOS", "long"), ("SLURM_CONSTRAINT", "a100&ib"),
        ("SLURM_RESERVATION", "may"), ("SLURM_PARTITION", "gpu"), ("SLURM_EXTRA", "--time 2-0 --comment 'two words'"),
    ):  # fmt: skip
        monkeypatch.setenv(f"MEDSEG_{name}", value)
    told = slurm_script.options("medseg-train-1", Path("/p/.medseg/jobs/1.log"), TWO)
    assert {"--requeue", "--signal=USR1@300", "--open-mode=append", "--job-name=medseg-train-1"} <= set(told)
    assert {"--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=64", "--gpus-per-node=8"} <= set(told)
    assert {"--account=p1", "--qos=long", "--constraint=a100&ib", "--reservation=may", "--partition=gpu"} <= set(told)
    assert told[-4:] == ["--time", "2-0", "--comment", "two words"]
    monkeypatch.setenv("MEDSEG_SLURM_EXTRA", "--comment 'two")
    with pytest.raises(ValueError, match=r"^MEDSEG_SLURM_EXTRA = .*: No closing quotation; close what is open"):
        slurm_script.options("medseg-train-1", Path("1.log"), TWO)


def test_a_job_sees_what_is_on_the_list_and_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEDSEG_KEY_FILE", "MEDSEG_SESSION", "MEDSEG_NODES", "MEDSEG_LAUNCHER", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "/x")
    kernels = {"ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG"}  # chosen, so that bits agree
    for name in kernels:
        monkeypatch.setenv(name, "AVX2")
    for name, value in (("MEDSEG_HANG_S", "5"), ("MLFLOW_TRACKING_URI", "http://m"), ("NCCL_DEBUG", "INFO")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MEDSEG_LAUNCHER")
    monkeypatch.delenv("MEDSEG_NODES")
    seen = set(slurm_script.passed())
    assert {"PATH", "MEDSEG_HANG_S", "MLFLOW_TRACKING_URI", "NCCL_DEBUG", *kernels} <= seen
    assert not {"MEDSEG_KEY_FILE", "MEDSEG_SESSION", "AWS_SECRET_ACCESS_KEY"} & seen
    monkeypatch.setenv("MEDSEG_SLURM_EXPORT", "AWS_SECRET_ACCESS_KEY, NOT_SET")
    assert set(slurm_script.passed()) == seen | {"AWS_SECRET_ACCESS_KEY"}


def run_script(programs: Path, code: int, state: str = "RUNNING", again: str = "0") -> tuple[int, str]:
    """Exit code and output of the job's script, whose ranks end with `code`."""
    program(programs, "srun", f'echo "in job $MEDSEG_IN_JOB, $LOADED: $*"; exit {code}')
    program(programs, "scontrol", f'[ "$1" = requeue ] || echo "JobId=7 JobState={state} ExitCode=0:0"; exit 0')
    program(programs, "sleep", "exit 0")
    done = subprocess.run(
        ["bash"], input=slurm_script.script("train", TWO), capture_output=True, text=True, check=False,
        env={**os.environ, "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": again},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def requeued(programs: Path) -> bool:
    calls = programs / "scontrol.calls"
    return calls.exists() and "requeue 7" in calls.read_text()


def test_the_script_runs_the_prologue_and_the_stage_once_on_each_machine(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSEG_SLURM_PROLOGUE", "export LOADED=cuda")
    code, told = run_script(programs, 0)
    assert code == 0
    assert "in job 1, cuda: --export=ALL --ntasks-per-node=1 --cpus-per-task=64" in told
    assert told.rstrip().endswith(f"{sys.executable} -m pipelines train")
    assert not requeued(programs)


@pytest.mark.parametrize("code", [75, 137])
def test_ranks_that_had_to_stop_put_the_job_into_the_queue_again(programs: Path, code: int) -> None:
    assert "train: job 7 is queued again (1 of 10)" in run_script(programs, code)[1]
    assert requeued(programs)


@pytest.mark.parametrize(
    ("code", "state", "again"),
    [
        (1, "RUNNING", "0"),  # refused, or failed
        (75, "COMPLETING", "0"),  # cancelled
        (75, "RUNNING", "10"),  # often enough
    ],
)
def test_nothing_else_does(programs: Path, code: int, state: str, again: str) -> None:
    assert run_script(programs, code, state, again)[0] == code
    assert not requeued(programs)


def test_a_job_that_slurm_queued_again_too_often_starts_no_ranks(programs: Path) -> None:
    code, told = run_script(programs, 0, again="11")
    assert (code, told.strip()) == (1, "train: was queued again 11 times, and MEDSEG_REQUEUES = 10; run again to go on")
    assert not (programs / "srun.calls").exists()


def test_in_a_container_the_project_is_where_it_is_outside(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_IMAGE", "/images/medseg.sif")
    monkeypatch.setenv("MEDSEG_CHECKPOINTS", "/scratch/runs")
    told = run_script(programs, 0)[1]
    binds = f"--bind {programs} --bind /scratch/runs --pwd {programs}"
    assert f"apptainer exec --nv {binds} /images/medseg.sif python -m pipelines train" in told


def test_the_name_of_a_job_is_the_runs_and_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = slurm_script.job_name("train-0123456789ab")
    assert here.startswith("medseg-train-0123456789ab-")
    assert slurm_script.job_name("train-0123456789ab") == here
    (tmp_path / "other").mkdir()
    (tmp_path / "other/dvc.yaml").touch()
    monkeypatch.chdir(tmp_path / "other")
    assert slurm_script.job_name("train-0123456789ab") != here


@pytest.mark.parametrize(
    ("squeue", "sacct", "scontrol", "seen"),
    [
        ("echo 'PENDING|Resources'", "exit 1", "exit 1", Look("PENDING", "Resources")),
        ("echo 'FAILED|NonZeroExitCode'", "echo 'FAILED|75:0'", "exit 1", Look("FAILED", code=75)),
        ("echo 'CANCELLED|None'", "echo 'CANCELLED by 0|0:15'", "exit 1", Look("CANCELLED", code=143)),
        ("echo 'FAILED|None'", "exit 1", "echo 'JobId=7 JobState=FAILED ExitCode=1:0'", Look("FAILED", code=1)),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "echo 'COMPLETED|0:0'", "exit 1",
         Look("COMPLETED", code=0)),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "exit 1", "exit 1", None),
    ],
)  # fmt: skip
def test_what_the_programs_answer(programs: Path, squeue: str, sacct: str, scontrol: str, seen: Look | None) -> None:
    for name, body in (("squeue", squeue), ("sacct", sacct), ("scontrol", scontrol)):
        program(programs, name, body)
    assert slurm.look("7") == seen


def test_a_job_is_found_by_its_name(programs: Path) -> None:
    program(programs, "squeue", "echo '7|COMPLETING'; echo '12|PENDING'")
    assert slurm.active("medseg-train-1") == {"7": "COMPLETING", "12": "PENDING"}
    assert "--name medseg-train-1" in (programs / "squeue.calls").read_text()
    program(programs, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(ValueError, match=r"^squeue does not tell whether job medseg-train-1 runs already: Unable to"):
        slurm.active("medseg-train-1")


def test_a_refusal_is_told_as_slurm_tells_it(programs: Path) -> None:
    program(programs, "sbatch", "echo 'sbatch: error: invalid account' >&2; exit 1")
    with pytest.raises(ValueError, match=r"^sbatch refuses the job: sbatch: error: invalid account; see"):
        slurm.submit(["--nodes=2"], "", os.environ)


def test_the_certificate_is_checked_before_a_queue_gets_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is how the batch is shared."""
    settings = profiles.settings("smoke")
    recipe = settings.train.model_copy(update={"global_batch": 32, "micro_batch": 1})
    monkeypatch.setenv("MEDSEG_NODES", "4")
    monkeypatch.setenv("MEDSEG_GPUS", "8")
    monkeypatch.setattr(certificates, "digest", lambda *_: "digest")
    with pytest.raises(ValueError, match=r"^MEDSEG_GPU is not set, and 32 GPUs need a launch certificate before"):
        asked_for(settings.model, recipe)
    monkeypatch.setenv("MEDSEG_GPU", "a100-80gb")
    with pytest.raises(ValueError, match=r"^32 GPUs need a launch certificate and .* holds none; make one with"):
        asked_for(settings.model, recipe)
    monkeypatch.setenv("MEDSEG_UNCERTIFIED", "1")
    assert asked_for(settings.model, recipe) == Machines(4, 8, 8, 8)
    monkeypatch.setenv("MEDSEG_GPUS", "6")
    with pytest.raises(ValueError, match=r"^MEDSEG_NODES = 4 with 6 ranks each must divide train.global_batch"):
        asked_for(settings.model, recipe)


def test_options_that_stand_in_a_script_read_back_as_they_were(programs: Path) -> None:
    told = slurm_script.options("medseg-train-1", Path("/with space/1.log"), TWO)
    assert [shlex.split(shlex.quote(each)) for each in told] == [[each] for each in told]
