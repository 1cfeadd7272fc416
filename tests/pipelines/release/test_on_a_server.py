"""An MLflow server over HTTP: versions from one machine to another, and nothing lost while it is away."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipelines.release import dossier, issuing, registration, registry, store, tracking
from pipelines.training import curves
from pipelines.training.curves import Curves
from tests.pipelines.release import evaluated
from tests.pipelines.release.mlflow_server import Server
from tests.pipelines.release.test_weights_signature import new_key

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns of its own code


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("mlflow"))
    found.start()
    yield found
    with suppress(ProcessLookupError):
        found.kill()


@pytest.fixture
def machine(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Change to the project of a machine of this name, made if it is new."""
    monkeypatch.setenv(tracking.VARIABLE, server.address)
    monkeypatch.setattr(tracking, "PATIENCE_S", 3)

    def change(name: str) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "dvc.yaml").write_text("stages: {}\n")
        monkeypatch.chdir(tmp_path / name)
        return tmp_path / name

    return change


def test_a_version_goes_from_one_machine_to_another_and_a_changed_artifact_is_refused(
    machine: Callable[[str], Path], server: Server
) -> None:
    content = evaluated.make(machine("one"))
    assert [registration.make_version(), registration.make_version()] == ["1", "1"]
    other = machine("other")
    version = registry.find("models:/m@candidate")
    assert version.record == content
    assert version.weights() == other / ".medseg/weights" / str(content["weights_sha256"])
    kept = dossier.find(dossier.record.digest(content), version.run_id)
    assert kept.is_relative_to(other)
    assert {path.name for path in kept.iterdir()} == {path.name for path in dossier.place(kept.name).iterdir()}
    (artifact,) = (server.folder / "artifacts").rglob("*.safetensors")  # once on the server, too
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"x")
    third = machine("third")
    (page,) = (server.folder / "artifacts").rglob(f"version-{kept.name}/evaluation/index.html")
    page.write_text("better")
    with pytest.raises(ValueError, match=r"evaluation/index.html is not what it was"):
        dossier.find(kept.name, version.run_id)
    assert not list((third / ".medseg/versions").iterdir())
    with pytest.raises(ValueError, match="is not the registered"):
        registry.find("models:/m/1").weights()
    assert not list((third / ".medseg/weights").iterdir())
    evaluated.make(third)  # later than the record
    with pytest.raises(ValueError, match="is not the registered"):
        store.keep(third / "models/train", "0" * 64)
    machine("other")
    assert store.find(str(content["weights_sha256"]), run_id="not asked")  # what was fetched before stays


def test_a_version_that_something_else_made_or_changed_is_told_in_one_line(machine: Callable[[str], Path]) -> None:
    machine("one")
    client = tracking.configure().MlflowClient()
    client.create_registered_model("foreign")
    version = client.create_model_version("foreign", "s3://nowhere/model").version
    for tags in ({}, {"record": "{}", "record_sha256": "0", "mlflow_run_id": ""}):
        for name, value in tags.items():
            client.set_model_version_tag("foreign", version, name, value)
        with pytest.raises(ValueError, match="foreign version 1 has no record that its digest vouches for"):
            registry.find("models:/foreign/1")


def points(project: str) -> list[tuple[int, float]]:
    """Of the newest run with this tag, all its losses."""
    client = tracking.configure().MlflowClient()
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
    (run,) = client.search_runs([experiment], f"tags.project = '{project}'")
    assert run.info.status == "FINISHED"
    return [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "loss")]


def log_losses(curve: Curves, steps: range) -> list[tuple[int, float]]:
    losses = [(step, 1.0 / (1 + step)) for step in steps]
    for step, loss in losses:
        curve.log(step, {"loss": loss, "none": float("nan")})
    return losses


def test_no_point_is_lost_while_the_server_is_away_nor_if_it_is_away_when_the_run_ends(
    machine: Callable[[str], Path], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "FLUSH_EVERY_S", 0.2)
    monkeypatch.setattr(curves, "LONGEST_PAUSE_S", 1.0)
    monkeypatch.setattr(curves, "PATIENCE_S", 30.0)
    folder = machine("one")
    curve = Curves("train-1", "train", {"train.steps": 3000})
    logged = log_losses(curve, range(1000))
    curve.points.write(b'{"step": 5, "ti')  # a run is killed here, and goes on
    curve.points.close()
    curve.abandoned = True
    curve = Curves("train-1", "train", {})
    server.kill()
    logged += log_losses(curve, range(1000, 2000))
    time.sleep(2)  # several attempts
    server.start()
    logged += log_losses(curve, range(2000, 3000))
    curve.finish({"project": "back in time"})
    assert sorted(points("back in time")) == logged
    monkeypatch.setattr(curves, "PATIENCE_S", 1.0)
    late = Curves("train-2", "train", {})
    server.kill()
    logged = log_losses(late, range(10))
    late.finish({"project": "too late"})
    assert json.loads((folder / ".medseg/curves/train-2/end.json").read_text()) == {"project": "too late"}
    server.start()
    curves.deliver_all()
    assert sorted(points("too late")) == logged
    assert not list((folder / ".medseg/curves").iterdir())


@pytest.mark.parametrize(("scheme", "listens"), [("http", False), ("http", True), ("postgresql+psycopg2", False)])
def test_a_server_that_is_away_or_says_nothing_is_told_in_one_line_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, listens: bool
) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "PATIENCE_S", 1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if listens:
            listener.listen()
        monkeypatch.setenv(tracking.VARIABLE, f"{scheme}://me:secret@127.0.0.1:{listener.getsockname()[1]}/db")
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"MLflow does not answer at \S+://127.0.0.1:\d+ \(") as refused:
            tracking.require_answer()
        assert time.monotonic() - start < 10
        assert "secret" not in str(refused.value)


def test_a_signature_of_weights_goes_from_one_machine_to_another(machine: Callable[[str], Path]) -> None:
    key = new_key(machine("signing") / "key")
    evaluated.make(Path.cwd(), dice=0.7)
    model = registry.find(f"models:/m/{registration.make_version()}")
    issuing.sign(model, key)
    public = key.with_suffix(".pub")
    evaluated.make(machine("verifying"))  # the same weights
    assert issuing.verify(model, public) == str(public)
    with pytest.raises(ValueError, match="is not by this key"):
        issuing.verify(model, new_key(Path.cwd() / "other").with_suffix(".pub"))
