"""What whoever runs an installation asks it: doctor, metrics, the cost of a stage."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flows import cost, doctor, metrics
from flows.doctor import DoctorCheck
from tests.conftest import REPOSITORY


@pytest.fixture
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without anything in it; no server is named."""
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / ".medseg").mkdir(mode=0o700)
    monkeypatch.setenv("MEDSEG_ROOT", str(tmp_path))
    return tmp_path


def found(name: str) -> DoctorCheck:
    return next(check for check in doctor.checks() if check.name == name)


def test_every_check_that_is_not_well_has_a_remedy_and_the_command_fails_with_their_names(
    project_folder: Path, tmp_path: Path
) -> None:
    (project_folder / ".medseg").chmod(0o755)
    (project_folder / ".medseg/mlflow.db").write_bytes(b"SQLite format 3\0" + b"damaged" * 500)
    said = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    code = "import sys; from flows.commands import medseg; medseg.main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--json"], env=said, capture_output=True, text=True, check=False
    )
    checks: list[dict[str, Any]] = json.loads(ended.stdout)["checks"]
    assert all(set(check) == {"name", "ok", "found", "remedy"} for check in checks)
    wrong = {check["name"]: check for check in checks if not check["ok"]}
    assert {"state folder", "database: the registry", "server: MLFLOW_TRACKING_URI"} <= set(wrong)
    assert all(check["remedy"] for check in wrong.values())
    assert ended.returncode == 1
    assert "state folder" in ended.stderr
    names = {check["name"] for check in checks}
    assert {"project", "versions", "programs", "ports", "disk: project", "clock", "file descriptors", "lock"} <= names


def test_doctor_loads_no_torch(project_folder: Path) -> None:
    code = "import sys; from flows import doctor; doctor.checks(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})


def test_doctor_tells_a_taken_port_a_held_lock_and_a_version_out_of_range(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    from flows import lock

    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if taken.connect_ex(("127.0.0.1", 5000)):  # nobody has it
            taken.close()
            with socket.create_server(("127.0.0.1", 5000)):
                assert "5000" in found("ports").found
    with lock.held(doing="a test"):
        assert found("lock").found == f"held: a test, process {os.getpid()}"
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.155" if name == "fastapi" else version(name))
    check = found("versions")
    assert (check.ok, "fastapi 0.155" in check.found) == (False, True)


def test_figures_are_of_this_project_and_name_nothing_of_it(project_folder: Path) -> None:
    raw = project_folder / "data/raw/Jane Doe"
    raw.mkdir(parents=True)
    os.utime(raw, (time.time() - 86_400,) * 2)
    os.utime(raw.parent, (time.time() - 90_000,) * 2)
    with cost.metered("train", print):
        pass
    text = metrics.text()
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures["medseg_newest_scan_seconds"]) == pytest.approx(86_400, abs=60)
    assert 0 < float(figures['medseg_disk_free_ratio{place="project"}']) < 1
    assert float(figures["medseg_prefect_up"]) == 0
    assert float(figures["medseg_run_silent_seconds"]) == 0
    assert "Jane" not in text
    assert str(project_folder) not in text


def test_a_run_that_writes_nothing_is_silent(project_folder: Path) -> None:
    from flows import lock

    with lock.held(doing="run"):
        os.utime(project_folder / ".medseg/lock", (time.time() - 4000,) * 2)
        for name in ("data", "models", "reports"):
            os.utime(project_folder / name, (time.time() - 4000,) * 2)
        assert "medseg_run_silent_seconds 4" in metrics.text().replace("+", "")
        curve = project_folder / ".medseg/curves/run/points.jsonl"
        curve.parent.mkdir(parents=True)
        curve.write_text("\n")
        silent = next(line for line in metrics.text().splitlines() if line.startswith("medseg_run_silent_seconds"))
        assert float(silent.split()[1]) < 60


def test_cost_is_an_estimate_from_processor_time_where_nothing_measures(
    project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "RAPL", project_folder / "none")
    monkeypatch.setattr(cost, "TELL_FROM_S", 0.0)
    lines: list[str] = []
    burn = "import time\nwhile time.process_time() < 1: pass"
    with cost.metered("train", lines.append):
        subprocess.run([sys.executable, "-c", burn], check=True)
    (noted,) = cost.noted()
    assert noted.kwh * 3.6e6 == pytest.approx(cost.WATTS_A_CORE, rel=0.5)  # 1 s of one core, and Python's start
    assert not noted.measured
    assert "estimated" in lines[0]
    assert cost.total(cost.noted(since=noted.ended)).kwh == 0


def test_cost_is_measured_by_the_processors_meter(project_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = project_folder / "powercap/intel-rapl:0/energy_uj"
    (meter.parent / "../intel-rapl:0:0").resolve().mkdir(parents=True)  # a part of it, which counts once
    meter.parent.mkdir(exist_ok=True)
    meter.write_text("1000000")
    monkeypatch.setattr(cost, "RAPL", project_folder / "powercap")
    with cost.metered("evaluate", print):
        meter.write_text("8200000")  # 7.2 J = 2 mWh
    (noted,) = cost.noted()
    assert (noted.measured, noted.kwh) == (True, pytest.approx(2e-6))


def test_a_snapshot_links_what_is_as_before_and_copies_a_database_in_use(tmp_path: Path) -> None:
    from flows import snapshot

    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep/weights").write_bytes(b"w" * 1000)
    (source / "left").write_text("out")
    (source / "link").symlink_to("deep/weights")
    with sqlite3.connect(source / "jobs.db") as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE jobs (id)")
        database.execute("INSERT INTO jobs VALUES (1)")
        database.commit()
        first = snapshot.copy(source, tmp_path / "1", None, {}, lambda path: path.name == "left")
        second = snapshot.copy(source, tmp_path / "2", tmp_path / "1", first, lambda path: path.name == "left")
    database.close()
    assert sorted(first) == sorted(second) == ["deep/weights", "jobs.db"]
    assert (tmp_path / "2/deep/weights").stat().st_nlink == 2
    assert (tmp_path / "2/link").readlink() == Path("deep/weights")
    copied = sqlite3.connect(tmp_path / "2/jobs.db")
    assert copied.execute("SELECT id FROM jobs").fetchall() == [(1,)]
    copied.close()
    assert snapshot.damaged(tmp_path / "2", second) == []
    (tmp_path / "2/jobs.db").write_bytes(b"")
    assert snapshot.damaged(tmp_path / "2", second) == ["jobs.db"]
