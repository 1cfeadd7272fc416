"""What is said on the first day, when something is not as it should be; no server of ours and no project."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows import server, stage_task
from flows.commands.medseg import app
from tests.conftest import save


def test_a_failed_stage_brings_no_empty_trace() -> None:
    assert stage_task.__name__  # its import sets it right
    log = logging.getLogger("prefect.task_runs")
    record = log.makeRecord(log.name, logging.ERROR, "", 0, "Task run failed", (), (None, None, None))
    assert log.filter(record)
    assert record.exc_info is None


@contextmanager
def answering(version: str) -> Iterator[str]:
    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(version).encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{there.server_port}/api"
        there.shutdown()


def test_a_prefect_server_of_another_major_version_is_told_in_one_line() -> None:
    with answering("2.20.4") as api, pytest.raises(ValueError, match=r"of version 2\.20\.4, 3 is needed; upgrade it"):
        server.check_version(api)
    with answering("3.8.8") as api:
        server.check_version(api)


def test_a_folder_without_a_usable_scan_is_told_with_the_nearest_layout(tmp_path: Path) -> None:
    for name in ("t1n", "t2f"):
        save(tmp_path / f"Patients/BraTS-GLI-00000-000-{name}.nii.gz", np.ones((4, 4, 4), np.uint8))
    ended = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert ended.exit_code == 1
    first = "Patients/BraTS-GLI-00000-000-t1n.nii.gz"
    assert f"2 NIfTI files are in no layout that is read; the first: {first}" in ended.output
    assert "nearest layout: brats (NAME/NAME_{flair,t1,t1ce,t2,seg}.nii.gz" in ended.output


def test_outside_a_terminal_paths_are_whole_and_names_are_no_markup(tmp_path: Path) -> None:
    deep = tmp_path / "a[/b]" / ("a long name of a folder " * 8)
    image = np.random.default_rng(0).integers(1, 100, (12, 12, 8)).astype(np.int16)
    for name in ("patient001", "patient002"):
        save(deep / name / f"{name}_frame01.nii.gz", image, np.diag([1.5, 1.5, 10, 1]))
        image = image[::-1]
    save(deep / "patient002/patient002_frame01_gt.nii.gz", np.zeros((12, 12, 8), np.uint8), np.diag([1.5, 1.5, 10, 1]))
    ended = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert ended.exit_code == 0
    assert f"{deep}/patient002/patient002_frame01_gt.nii.gz: label is empty" in ended.output
    assert ended.output.splitlines()[-1] == "2 scans, 1 quarantined, 0 with notes"
