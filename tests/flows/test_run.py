"""`medseg run` on a toy project: what runs, what does not, and what is left when it is killed."""

import json
import re
import resource
import signal
import subprocess
import time

import httpx
import mlflow
import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from tests.flows.conftest import MEDSEG, Project, eventually


def ran(ended: "subprocess.CompletedProcess[str]") -> list[str]:
    assert ended.returncode == 0, ended.stderr
    return re.findall(r"Running stage '(\w+)'", ended.stderr)


def test_first_run_brings_every_stage_up_to_date_and_shows_the_result(done_template: Project) -> None:
    log = done_template.read("dvc.lock")
    assert all(f"  {stage}:" in log for stage in ("inventory", "ingest", "preprocess", "train", "evaluate", "register"))


def cpu_s() -> float:
    """Processor time of all children that ended; unlike the clock it does not see what else this machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_nothing_changed_runs_only_the_inventory_and_costs_little(done: Project) -> None:
    del done.environment["PREFECT_API_URL"]  # with its own embedded server
    before, used = done.read("dvc.lock"), cpu_s()
    assert done.call("python", "-c", "import dvc.repo, mlflow, prefect.flows").returncode == 0
    imports_s = cpu_s() - used
    ended = done.medseg("run")
    assert ran(ended) == ["inventory"]
    assert cpu_s() - used - imports_s < 8 * imports_s  # 3 times: a server, a flow and two calls of dvc
    assert done.read("dvc.lock") == before
    bare = done.call("python", "-m", "dvc", "repro")
    assert bare.returncode == 0, bare.stderr
    assert "Running stage 'train'" not in bare.stdout
    assert done.read("dvc.lock") == before
    assert re.search(r"msd +hippocampus_anterior +0\.900 +4", ended.stdout)
    assert "medsegformer version 1" in ended.stdout


def test_missing_output_comes_back_without_running_its_stage_and_a_lost_version_is_registered_again(
    done: Project,
) -> None:
    (done.root / "models/train/model.safetensors").unlink()
    client = mlflow.MlflowClient(f"sqlite:///{done.root}/.medseg/mlflow.db")
    client.create_model_version("medsegformer", "file:///elsewhere")  # version 2, of something else
    client.delete_model_version("medsegformer", "1")
    before = done.read("dvc.lock")
    ended = done.medseg("run")
    assert ran(ended) == ["inventory"]
    assert (done.root / "models/train/model.safetensors").exists()
    assert "medsegformer version 3" in ended.stdout
    assert done.read("dvc.lock") == before


def refused_for_its_registry(code: int, stderr: str) -> str:
    (told,) = stderr.splitlines()
    assert (code, told.split(", ")[1]) == (1, "the registry of models")
    return told


def test_a_lost_registry_is_no_reason_to_begin_at_version_1_and_its_copy_brings_all_back(done: Project) -> None:
    database = done.root / ".medseg/mlflow.db"
    for damage in (database.unlink, lambda: database.write_bytes(b""), lambda: database.write_bytes(b"\0" * 5000)):
        damage()
        ended = done.here("status")
        told = refused_for_its_registry(ended.exit_code, ended.stderr)
    ended = done.here("register")
    assert refused_for_its_registry(ended.exit_code, ended.stderr) == told
    run = done.medseg("run")
    assert refused_for_its_registry(run.returncode, run.stderr) == told
    remedy = told.split("`")[1]
    assert done.call("sh", "-c", remedy).returncode == 0
    status = json.loads(done.here("status", "--json").stdout)
    assert (status["registered"]["version"], status["identity_consistent"]) == ("1", True)


def test_failing_stage_ends_in_its_own_line(done: Project) -> None:
    done.write("fail", "patch_size 33 must be divisible by 4")
    done.write("data/raw/a", "2")
    ended = done.medseg("run")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "medseg: train: patch_size 33 must be divisible by 4"
    assert ended.stderr.count("Traceback") == 1  # the stage's own, streamed; none of Prefect's


def test_a_changed_parameter_reruns_its_stage_and_what_follows_also_if_it_was_preempted(done: Project) -> None:
    """That ends in 75, and the same command goes on."""
    done.replace("params.yaml", "learning_rate: 0.003", "learning_rate: 0.004")
    done.write("preempt", "")
    ended = done.medseg("run")
    assert ended.returncode == 75
    assert ended.stderr.splitlines()[-1].startswith(
        "medseg: train was asked to stop and saved its state; the same comm"
    )
    assert "Traceback" not in ended.stderr
    ended = done.medseg("run")
    assert ran(ended) == ["inventory", "train", "evaluate", "register"]
    assert "preprocess: nothing changed" in ended.stderr


def test_bad_parameters_are_refused_before_anything_starts(done: Project) -> None:
    done.replace("params.yaml", "overlap: 0.5", "overlap: 5")
    ended = done.here("run")
    assert ended.exit_code == 1
    assert ended.stderr.startswith("medseg: params.yaml: evaluate.overlap = 5")
    assert len(ended.stderr.splitlines()) == 1


def test_profile_changes_and_data_are_put_in_place(done: Project) -> None:
    scans = done.root.parent / "scans"
    (scans / "patient001").mkdir(parents=True)
    (scans / "patient001/patient001_frame01.nii.gz").write_text("2")
    ignored = done.here("run", "--data", str(scans))
    assert (ignored.exit_code, len(ignored.stderr.splitlines())) == (1, 1)
    assert "--data would be ignored: data.sources [phantom] reads nothing of it" in ignored.stderr
    given = ("--set", "data.sources=[acdc]", "--data", str(scans))
    refused = done.medseg("run", *given)
    assert refused.returncode == 1
    own = [line for line in refused.stderr.splitlines() if line.startswith("medseg: ")]  # Prefect may log after it
    assert len(own) == 1
    assert "scans of its own" in own[0]
    (done.root / "data/raw").rename(done.root / "elsewhere")
    smoke = done.read("params.yaml")
    done.replace("params.yaml", "overlap: 0.5", "overlap: 0.25")
    ended = done.medseg("run", "--profile", "smoke", "--set", "train.seed=1", *given)
    assert "train" in ran(ended)
    assert (done.root / "data/raw").readlink() == scans
    expected = smoke.replace("\ntrain:\n  seed: 0", "\ntrain:\n  seed: 1").replace("- phantom", "- acdc")
    assert done.read("params.yaml") == expected
    assert len(list((done.root / ".medseg").glob("params-*.yaml"))) == 1  # what was overwritten is kept


def hold(project: Project) -> "subprocess.Popen[str]":
    """A run that stands still inside `train`."""
    (project.root / "held").unlink(missing_ok=True)
    project.write("hold", "")
    project.write("data/raw/a", "2")
    process = project.start(MEDSEG, "run")
    eventually((project.root / "held").exists, 60, "train has begun")
    return process


def test_killed_run_leaves_no_process_no_half_output_and_no_lock(done: Project) -> None:
    """And each next one begins `train` again."""
    for signum, code, within_s in ((signal.SIGTERM, 143, 1), (signal.SIGKILL, -signal.SIGKILL, 5)):
        process = hold(done)
        assert len(done.processes()) >= 3
        process.send_signal(signum)
        assert process.wait(timeout=30) == code
        eventually(lambda: not done.processes(), within_s, "all processes are gone")
        assert not list((done.root / "models").glob("**/model.safetensors"))
        assert not list((done.root / "models").glob(".*"))
        done.environment.pop("PREFECT_API_URL", None)  # the next one's own server must go too
    (done.root / "hold").unlink()
    assert "train" in ran(done.medseg("run"))


def test_second_run_is_refused_or_waits_while_status_works_until_the_first_is_interrupted(done: Project) -> None:
    first = hold(done)
    second = done.medseg("run")
    assert second.returncode == 1
    assert "another run is busy" in second.stderr
    assert "stage train" in second.stderr
    assert '"train": "running"' in done.here("status", "--json").stdout
    (done.root / "hold").unlink()
    waiting = done.start(MEDSEG, "run", "--wait", out="waiting")
    time.sleep(2)
    assert waiting.poll() is None
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=30) == 130
    assert done.read("out").splitlines()[-1].startswith("medseg: interrupted")
    assert waiting.wait(timeout=60) == 0
    assert "Running stage 'train'" in done.read("waiting")


@pytest.mark.slow
def test_run_outlives_its_server_and_is_not_running_for_ever_in_the_next_ones_pages(done: Project) -> None:
    del done.environment["PREFECT_API_URL"], done.environment["PREFECT_API_AUTH_STRING"]
    done.environment["PREFECT_CLIENT_MAX_RETRIES"] = "0"
    process = hold(done)
    login, (page, run_id) = (
        done.read(".medseg/login").strip(),
        re.findall(r"(\S+)/runs/flow-run/(\S+)", done.read("out"))[0],
    )
    assert httpx.post(f"{page}/api/flow_runs/filter", json={}).status_code == 401
    with SyncPrefectClient(api=f"{page}/api", auth_string=login) as client:
        of_it = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        name, due = client.read_flow_run(run_id).name, ["inventory", "ingest", "preprocess", "train"]
        assert re.fullmatch(r"smoke, 20\d\d-\d\d-\d\d \d\d:\d\d", name)

        def tasks() -> set[str]:
            return {task.name for task in client.read_task_runs(flow_run_filter=of_it)}

        eventually(lambda: {"inventory", "train"} <= tasks(), 20, f"the run's page shows its stages: {tasks()}")
        assert tasks() <= set(due)
    (server,) = (
        each for each in psutil.process_iter() if "flows.door" in each.cmdline() and each.cwd() == str(done.root)
    )
    server.kill()
    (done.root / "release").touch()
    assert process.wait(timeout=120) == 0
    told = done.read("out")
    assert told.count("the Prefect server went away, so its page does not show how this run ended; all stages did") == 1
    assert "medsegformer version 2" in told

    served = done.start(MEDSEG, "run", out="again")
    again = eventually(lambda: re.search(r"(\S+)/runs/flow-run/", done.read("again")), 60, "the next server is up")
    with SyncPrefectClient(api=f"{again[1]}/api", auth_string=done.read(".medseg/login").strip()) as client:
        state = client.read_flow_run(run_id).state
        assert state.is_crashed()
        assert "its process is gone" in state.message
    assert served.wait(timeout=120) == 0
