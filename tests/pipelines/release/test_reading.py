"""What the registry says, without MLflow while nothing was written: always what MLflow would say."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.release import reading, tracking
from pipelines.release.reading import NOT_THERE, Reader, RefusedError

# All that a Reader is asked; ends with 1 if MLflow was imported for it.
ASK = """
import sys
from pipelines.release.reading import Reader
reader = Reader()
reader.get_registered_model("m"), reader.get_model_version("m", "1"), reader.search_model_versions("name = 'm'")
print(reader.get_model_version_by_alias("m", "candidate").version, end="")
sys.exit("mlflow" in sys.modules)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose registry has two versions of `m`."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    with pytest.MonkeyPatch.context() as patch:
        _enter(folder, patch)
        client = tracking.configure().MlflowClient()
        client.create_registered_model("m", tags={"of": "model"})
        for number in "12":
            client.create_model_version("m", source=str(folder), tags={"number": number})
        client.set_registered_model_alias("m", "candidate", "1")
    return folder


@pytest.fixture
def client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    _enter(folder, monkeypatch)
    return tracking.configure().MlflowClient()


def _enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MEDSEG_ROOT", str(folder))
    patch.delenv(tracking.VARIABLE, raising=False)


def test_a_reader_answers_as_mlflow(client: Any) -> None:
    for _ in ("asked", "remembered"):
        model, version = Reader().get_registered_model("m"), Reader().get_model_version("m", "1")
        assert (model.name, model.tags, model.aliases) == ("m", {"of": "model"}, {"candidate": "1"})
        assert (version.version, version.tags, version.aliases) == ("1", {"number": "1"}, ["candidate"])
        assert {each.version for each in Reader().search_model_versions("name = 'm'")} == {"1", "2"}
        with pytest.raises(RefusedError, match="other") as refused:
            Reader().get_registered_model("other")
        assert refused.value.error_code == NOT_THERE


def test_whatever_was_written_is_told_and_mlflow_is_not_asked_again(client: Any) -> None:
    for holder in "21":
        client.set_registered_model_alias("m", "candidate", holder)
        client.set_registered_model_tag("m", "of", f"model {holder}")
        assert Reader().get_model_version_by_alias("m", "candidate").version == holder
        assert Reader().get_registered_model("m").tags == {"of": f"model {holder}"}
        assert Reader().get_model_version("m", "2").aliases == ["candidate"] * (holder == "2")
        assert len(Reader().search_model_versions("name = 'm'")) == 2
    client.set_registered_model_tag("m", "of", "model")
    reader = Reader()
    reader.get_registered_model("m"), reader.get_model_version("m", "1"), reader.search_model_versions("name = 'm'")
    assert reader.get_model_version_by_alias("m", "candidate").version == "1"
    ended = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert ended.stdout == "1"


def test_a_damaged_memory_and_a_transaction_under_way_are_no_answers(client: Any, folder: Path) -> None:
    Reader().get_model_version("m", "1")
    memory = folder / ".medseg" / "registry.json"
    forged = memory.read_text().replace('"number": "1"', '"number": "7"')
    for damaged in ("", "[]", json.dumps({**json.loads(forged), "database": "0"})):
        memory.write_text(damaged)
        assert Reader().get_model_version("m", "1").tags == {"number": "1"}
    memory.write_text(forged)
    assert Reader().get_model_version("m", "1").tags == {"number": "7"}  # what it is, for want of a reason to ask
    journal = folder / ".medseg" / "mlflow.db-wal"
    journal.touch()
    assert Reader().get_model_version("m", "1").tags == {"number": "1"}
    journal.unlink(missing_ok=True)


def test_a_disk_without_room_for_its_memory_is_no_obstacle(
    client: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reading, "write_json", full)
    (folder / ".medseg" / "registry.json").unlink(missing_ok=True)
    assert Reader().get_model_version("m", "1").tags == {"number": "1"}
