"""Which version answers which job, with a worker that takes one step at a time."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.params import profiles
from pipelines.release import audit
from pipelines.service import job_worker
from pipelines.service.job import DONE, QUEUED, Ask, JobAnswer
from pipelines.service.job_worker import Worker
from pipelines.service.queue import Spool
from pipelines.service.serve_settings import ServeSettings


@dataclass(frozen=True)
class Champion:
    told: str
    released: bool = True

    @property
    def standing(self) -> SimpleNamespace:
        return SimpleNamespace(released=self.released)

    @property
    def record_sha256(self) -> str:
        return self.told.rjust(64, "0")


class Answering:
    """In the place of networks: says who answered."""

    def load(self, version: Champion) -> None: ...

    def network(self) -> None: ...

    def answer(self, spool: Spool, asked: Any, version: Champion, folder: Path) -> tuple[JobAnswer, str, str]:
        (folder / "x.nii.gz").write_text(version.told)
        return JobAnswer({"told": version.told}), DONE, ""


@pytest.fixture
def champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Champion]:
    """What the registry has under that alias, to be changed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text(profiles.compose("smoke"))
    holder = {"now": Champion("m version 1")}
    monkeypatch.setattr(job_worker.tracking, "require_answer", lambda: None)
    monkeypatch.setattr(job_worker.registry, "find", lambda _: holder["now"])
    return holder


def test_a_champion_that_changes_answers_what_was_not_taken_yet_and_each_job_names_the_one_it_had(
    champion: dict[str, Champion], tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool")
    ids = [spool.accept(spool.arriving("ward"), Ask(), "ward") for _ in range(3)]
    worker = Worker(spool, ServeSettings(), 0)
    worker._answers = Answering()  # type: ignore[assignment]
    worker.step()
    champion["now"] = Champion("m version 2", released=False)  # recalled, or not signed: nothing answers meanwhile
    worker.step()
    assert [spool.job(each).state for each in ids] == [DONE, QUEUED, QUEUED]
    champion["now"] = Champion("m version 2")
    worker.step()
    worker.step()
    assert [spool.job(each).model for each in ids] == ["m version 1", "m version 2", "m version 2"]
    assert [spool.job(each).answer.version["told"] for each in ids] == ["m version 1", "m version 2", "m version 2"]
    logged = [line.facts["record_sha256"][-1] for line in audit.read(("answer",))]
    assert logged == ["1", "2", "2"]
