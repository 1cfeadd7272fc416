"""The command's manners: exit codes, one line on stderr, speed, JSON."""

import json
import resource
import subprocess
from pathlib import Path

import pytest

from flows.status import next_step
from tests.flows.conftest import MEDSEG, Project

PROFILES = ("hippocampus", "multi", "own", "pretrained", "smoke", "xl-a100x32")
STAGES = ("inventory", "ingest", "preprocess", "train", "evaluate", "register")


def test_help_is_instant() -> None:
    def used() -> float:
        times = resource.getrusage(resource.RUSAGE_CHILDREN)
        return times.ru_utime + times.ru_stime

    before = used()
    assert subprocess.run([MEDSEG, "--help"], capture_output=True, check=True).stdout
    assert used() - before < 0.4


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--nonsense"),
        ("nonsense",),
        ("run", "--data", "/no/such/folder"),
        ("promote", "zero"),
        ("promote", "1", "--to", "candidate"),
        ("promote", "1", "--key", "no-such-file"),
        ("approve", "not-a-run", "--meaning", "looked at all of it"),
    ],
)
def test_wrong_use_exits_with_2(done: Project, arguments: tuple[str, ...]) -> None:
    ended = done.here(*arguments)
    assert ended.exit_code == 2
    assert "Error" in ended.stderr


def test_exit_codes_reach_the_shell(done: Project) -> None:
    assert done.medseg("nonsense").returncode == 2
    refused = done.medseg("profile", "use", "nonsense")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("profile", "use", "nonsense"), f"medseg: no profile 'nonsense'; known: {', '.join(PROFILES)}"),
        (("run", "--profile", "nonsense"), f"medseg: no profile 'nonsense'; known: {', '.join(PROFILES)}"),
        (
            ("run", "--set", "train.stepz=20"),
            "medseg: --set train.stepz=20: unknown key train.stepz; did you mean 'steps'?",
        ),
        (
            ("certify", "--preset", "nano", "--gpus", "7", "--gpu", "a100-80gb"),
            "medseg: a global batch of 2 cannot be shared by 7 ranks; choose another number of GPUs or strategy",
        ),
    ],
)
def test_refusal_is_one_line_and_exits_with_1(done: Project, arguments: tuple[str, ...], line: str) -> None:
    ended = done.here(*arguments)
    assert (ended.exit_code, ended.stderr.strip()) == (1, line)


def test_debug_anywhere_shows_the_trace(done: Project) -> None:
    ended = done.medseg("profile", "--debug", "use", "nonsense")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback")


def test_outside_a_project_says_so(tmp_path: Path) -> None:
    ended = Project(tmp_path).here("status")
    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"medseg: {tmp_path} is not inside a project: ")
    assert "make one with `medseg init DIR`" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_commands_work_from_any_folder_of_the_project(done: Project) -> None:
    ended = Project(done.root / "profiles").here("params", "check")
    assert (ended.exit_code, ended.stdout) == (0, "params.yaml is valid\n")


def test_profiles_are_listed_with_the_one_in_use(done: Project) -> None:
    assert "* smoke" in done.here("profile", "ls").stdout.splitlines()
    done.replace("params.yaml", "overlap: 0.5", "overlap: 0.25")
    assert json.loads(done.here("profile", "ls", "--json").stdout) == {
        "profiles": list(PROFILES),
        "in_use": None,
    }


def test_status_of_a_finished_project(done: Project) -> None:
    status = json.loads(done.here("status", "--json").stdout)
    assert status["stages"] == dict.fromkeys(STAGES, "fresh")
    assert status["identity_consistent"] is True
    assert status["registered"]["version"] == "1"
    assert status["registered"]["aliases"] == ["candidate"]
    assert next_step(status) == "`medseg promote 1 --to clinical-candidate --key KEY`"


def test_status_after_a_change_names_what_follows_from_it(done: Project) -> None:
    done.replace("params.yaml", "learning_rate: 0.003", "learning_rate: 0.004")
    status = json.loads(done.here("status", "--json").stdout)
    assert [name for name, state in status["stages"].items() if state == "stale"] == ["train", "evaluate", "register"]
    assert status["identity_consistent"] is False


def test_status_sees_a_new_scan_before_the_next_run(done: Project) -> None:
    done.write("data/raw/b", "new")
    status = json.loads(done.here("status", "--json").stdout)
    assert set(status["stages"].values()) == {"stale"}


def test_status_before_the_first_run(fresh: Project) -> None:
    status = json.loads(fresh.here("status", "--json").stdout)
    assert set(status["stages"].values()) == {"stale"}
    assert status["registered"] is None
    assert status["identity_consistent"] is False


def test_the_form_in_prefects_page_has_profile_and_changes_with_their_meaning() -> None:
    from flows.training import training

    form = training.parameters.properties
    assert list(form) == ["profile", "changes", "data", "wait", "new_scans"]
    assert all(each["description"] for each in form.values())


def test_settings_are_explained_with_what_is_ones_own(done: Project) -> None:
    done.replace("params.yaml", "overlap: 0.5", "overlap: 0.25")
    row, *_ = json.loads(done.here("params", "show", "evaluate", "--json").stdout)
    assert (row["key"], row["value"], row["from"], row["bound"]) == ("evaluate.overlap", 0.25, "own change", "0 to 0.9")
    assert "evaluate.overlap" in done.here("params", "show").stdout
    refused = done.here("params", "show", "evaluat")
    assert (refused.exit_code, refused.stderr) == (
        1,
        "medseg: params show: unknown key evaluat; did you mean 'evaluate'?\n",
    )


def test_the_environment_is_listed_anywhere_and_refused_where_it_is_used(done: Project, tmp_path: Path) -> None:
    listed = json.loads(Project(tmp_path, {"MEDSEG_WORKERS": "abc"}).here("env", "--json").stdout)
    workers = next(row for row in listed["variables"] if row["name"] == "MEDSEG_WORKERS")
    assert (workers["value"], workers["bound"]) == ("abc", "1 to 4,096")
    done.environment = {"MEDSEG_WORKERS": "abc", "MEDSEG_WORKER": "3"}
    refused = done.medseg("params", "check")  # its log is told to this process's own terminal
    assert refused.returncode == 1
    unknown, wrong = refused.stderr.splitlines()
    assert unknown.startswith("MEDSEG_WORKER is set, and nothing reads it; did you mean 'MEDSEG_WORKERS'?")
    assert wrong.startswith("medseg: MEDSEG_WORKERS = 'abc': must be a valid integer")
    assert "MEDSEG_WORKERS" in done.here("env").stdout
