"""`medseg card`, `medseg card sign` and `medseg card verify` as people type them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.commands.medseg import app
from pipelines.release import audit, card, record, registration, store, tracking
from tests.pipelines.release import evaluated
from tests.pipelines.release.test_weights_signature import new_key

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns of its own code


@pytest.fixture
def evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The record of a model `m`, not registered yet, in a project of its own."""
    monkeypatch.delenv(tracking.VARIABLE, raising=False)  # MLflow sets it to what it was used with before
    monkeypatch.chdir(tmp_path)
    return evaluated.make(tmp_path)


@pytest.fixture
def content(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The same, registered as version 1."""
    assert registration.make_version() == "1"
    return evaluation


def medseg(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_registering_writes_a_card_and_the_command_makes_it_anew(content: dict[str, Any], tmp_path: Path) -> None:
    folder = card.place(record.digest(content))
    assert "m version 1" in (folder / card.PAGE).read_text()
    (tmp_path / "release").mkdir()
    (tmp_path / "release/card.yaml").write_text("developer: Clinic\n")
    done = medseg("card", "models:/m/1")
    assert done.exit_code == 0, done.output
    assert "m version 1: candidate" in done.stdout
    assert f"Card: {folder / card.PAGE}" in done.stdout
    assert "Clinic" in (folder / card.PAGE).read_text()
    told = json.loads(medseg("card", "models:/m@candidate", "--json").stdout)
    assert told["stated"]["developer"] == "Clinic"
    assert told["page"] == str(folder / card.PAGE)


@pytest.mark.usefixtures("evaluation")
def test_a_statement_that_is_wrong_does_not_stop_a_registration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "release/card.yaml").write_text("developper: Clinic\n")
    told: list[str] = []
    monkeypatch.setattr(registration.log, "warning", lambda text, *values: told.append(text % values))
    assert registration.make_version() == "1"
    assert "no model card (release/card.yaml: developper" in told[0]
    done = medseg("card", "models:/m/1")
    assert (done.exit_code, "did you mean 'developer'" in done.stderr) == (1, True)


def test_weights_are_signed_verified_and_a_changed_byte_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    key = new_key(tmp_path / "key")
    refused = medseg("card", "verify", "models:/m/1")
    assert (refused.exit_code, "`medseg card sign 1 --key KEY` makes it" in refused.stderr) == (1, True)
    done = medseg("card", "sign", "models:/m/1", "--key", str(key))
    assert done.exit_code == 0, done.output
    (line,) = audit.read(("sign",))
    assert line.facts["weights_sha256"] == content["weights_sha256"]
    nobody = medseg("card", "verify", "models:/m/1")
    assert (nobody.exit_code, "by none of the signers of m" in nobody.stderr) == (1, True)
    held = medseg("card", "verify", "models:/m/1", "--key", f"{key}.pub", "--json")
    assert json.loads(held.stdout) == {"name": "m", "version": 1, "signed_by": f"{key}.pub"}
    (weights,) = store.place(content["weights_sha256"]).glob("*.safetensors")
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    changed = medseg("card", "verify", "models:/m/1", "--key", f"{key}.pub")
    assert (changed.exit_code, "is not the registered" in changed.stderr) == (1, True)
