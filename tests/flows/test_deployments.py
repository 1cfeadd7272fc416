"""The table of deployments, and what runs wait for, without a server."""

import os
from pathlib import Path

import pytest

from flows import deployments, lock
from flows.deployments import TABLE


def test_times_are_those_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = tmp_path / "zoneinfo/Europe/Berlin"
    zone.parent.mkdir(parents=True)
    zone.touch()
    (tmp_path / "localtime").symlink_to(zone)
    monkeypatch.setattr(deployments, "LOCALTIME", tmp_path / "localtime")
    assert deployments.timezone_here() == "Europe/Berlin"
    monkeypatch.setattr(deployments, "LOCALTIME", tmp_path / "none")
    assert deployments.timezone_here() == "UTC"


def test_every_deployment_names_a_flow_of_its_name() -> None:
    for planned in TABLE:
        assert deployments._flow_of(planned).name == planned.flow
    assert len({planned.full_name for planned in TABLE}) == len(TABLE)


def test_an_ingest_is_waited_for_and_a_training_is_not() -> None:
    here = os.getpid()
    assert lock._patience_s({"doing": "ingest", "pid": here}, "run") == lock.INGEST_S
    assert lock._patience_s({"doing": "ingest", "pid": here}, "ingest") == 1
    assert lock._patience_s({"doing": "run", "pid": here}, "run") == 1
    assert lock._patience_s({"doing": "status", "pid": here}, "run") == lock.BRIEF_S
