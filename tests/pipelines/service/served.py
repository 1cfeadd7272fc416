"""A project with one version, not released, for the service to answer with."""

import json
from pathlib import Path

import pytest

from pipelines.release import record, registration, tracking
from pipelines.serving.conditions import Conditions
from pipelines.work import project
from pipelines.work.writing import write_json
from tests.pipelines.release import evaluated


def make_project(root: Path) -> Path:
    """Version 1 of model `m`: a `nano` with random weights that knows kidney and spleen in CT."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(tracking.VARIABLE, raising=False)
        patch.chdir(root)
        evaluated.make(root)
        metrics = root / project.EVALUATION / "metrics.json"
        told = json.loads(metrics.read_text())
        write_json(metrics, {**told, "conditions": Conditions.of_here(0.5).to_json()})
        write_json(root / record.FILE, record.make("m", root / project.TRAINED, root / project.EVALUATION))
        assert registration.make_version() == "1"
    return root
