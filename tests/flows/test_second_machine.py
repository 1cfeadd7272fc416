"""A toy project and its clone with an S3 between them (moto): pushed, pulled, reproduced, registered."""

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.conftest import Project, eventually

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-central-1"}


@pytest.fixture
def s3() -> Iterator[str]:
    """Address of an S3 server with a bucket `team`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{port}"
        eventually(lambda: _answers(port), 60, "moto answers")
        import boto3

        client = boto3.client(
            "s3", endpoint_url=address, region_name=KEYS["AWS_DEFAULT_REGION"],
            aws_access_key_id="test", aws_secret_access_key="test",
        )  # fmt: skip
        client.create_bucket(Bucket="team", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield address
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_clone_pulls_from_s3_runs_nothing_anew_and_registers(done: Project, s3: str, tmp_path: Path) -> None:
    done.environment.update(KEYS)
    dvc, git = (sys.executable, "-m", "dvc"), ("git", "-c", "user.name=Toy", "-c", "user.email=toy@example.org")
    for command in (
        (*dvc, "remote", "add", "--default", "team", "s3://team/store"),
        (*dvc, "remote", "modify", "team", "endpointurl", s3),
        (*dvc, "push"),
        (*git, "add", "-A"),
        (*git, "commit", "-qm", "Trained"),
        (*git, "clone", "-q", str(done.root), str(tmp_path / "other")),
    ):
        ended = done.call(*command)
        assert ended.returncode == 0, ended.stderr
    other = Project(tmp_path / "other", done.environment)
    (other.root / "data/raw").mkdir(parents=True)
    other.write("data/raw/a", done.read("data/raw/a"))
    (other.root / ".medseg").mkdir()
    shutil.copy(done.root / ".medseg/key", other.root / ".medseg/key")  # names of raw files are the same under one key
    pulled = other.call(*dvc, "pull")
    assert pulled.returncode == 0, pulled.stderr
    reproduced = other.call(*dvc, "repro")
    assert reproduced.returncode == 0, reproduced.stderr
    assert re.findall(r"Running stage '(\w+)'", reproduced.stdout) == ["inventory"]
    assert other.read("dvc.lock") == done.read("dvc.lock")
    assert other.here("register").exit_code == 0
    assert '"identity_consistent": true' in other.here("status", "--json").stdout
