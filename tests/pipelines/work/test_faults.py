"""Which errors are one line and which are a trace."""

import errno
import sqlite3
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import httpx
import pytest
import torch
from mlflow.exceptions import MlflowException
from safetensors import SafetensorError

from pipelines.release import tracking
from pipelines.work import faults, preemption
from pipelines.work.wording import listed
from pipelines.work.writing import replacing

PLAIN = [
    ValueError("patch_size 33\nmust be divisible by 4"),
    FileNotFoundError(2, "No such file or directory", "scan.nii.gz"),
    MlflowException("the registry does not answer"),
    SafetensorError("Error while deserializing header: HeaderTooLarge"),
    sqlite3.DatabaseError("database disk image is malformed"),
    BrokenProcessPool("a process died"),
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    preemption.PreemptedError("train was asked to stop"),
]


@pytest.mark.parametrize("error", PLAIN, ids=lambda error: type(error).__name__)
def test_what_people_data_and_machines_cause_is_one_line(error: Exception) -> None:
    line = faults.told(error)
    assert line
    assert "\n" not in line


@pytest.mark.parametrize("error", [KeyError("kits"), RuntimeError("shapes differ"), AssertionError(), TypeError("x")])
def test_our_own_mistakes_keep_their_trace(error: Exception) -> None:
    assert faults.told(error) is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        sqlite3.OperationalError("database or disk is full"),
        MlflowException("[Errno 28] No space left on device: 'mlruns/1'"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_is_told_with_place_room_and_remedy(error: Exception) -> None:
    line = faults.told(error) or ""
    assert line.startswith(f"{Path.cwd()}: no space left on device: ")
    assert "GiB are free; free space there" in line


def test_a_full_disk_is_told_with_the_file_however_it_is_written(tmp_path: Path) -> None:
    def fill(folder: Path, error: type[Exception]) -> None:
        folder.mkdir()
        (folder / "first").write_bytes(bytes(1 << 22))
        raise error("I/O error: No space left on device (os error 28)")

    for kind in (OSError, SafetensorError, RuntimeError):
        needed = r"more than 0\.0039\d* GiB are needed"
        with pytest.raises(OSError, match=needed) as full, replacing(tmp_path / "case") as path:
            fill(path, kind)
        assert (faults.told(full.value) or "").startswith(f"{tmp_path}/case: no space left on device: ")
    assert not list(tmp_path.iterdir())


def test_a_long_list_is_cut_with_its_count() -> None:
    assert listed([("a", "bad"), ("b", "bad"), ("c", "worse")]) == "a and 1 more: bad; c: worse"
    assert listed([(str(n), str(n)) for n in range(12)]).endswith("4: 4; and 7 more reasons, in the log")


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (httpx.ConnectError("refused"), True),
        (ConnectionResetError(), True),
        (tracking.AwayError("MLflow does not answer"), True),
        (ValueError("patch_size 33 must be divisible by 4"), False),
        (faults.full_disk(Path("/")), False),
        (MemoryError(), False),
    ],
)
def test_only_servers_and_networks_are_tried_again(error: Exception, again: bool) -> None:
    assert faults.is_infrastructure(error) is again
