"""An experiment that DVC runs in a folder of its own has the key, the state and the raw scans of its project."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.scans import key
from pipelines.stages import inventory
from pipelines.work import project
from tests.conftest import REPOSITORY


@pytest.fixture
def experiment(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What git brings along: neither scans nor `.medseg`."""
    folder = Path.cwd() / ".dvc/tmp/exps/standalone/tmpabc"
    folder.mkdir(parents=True)
    (folder / "structures.yaml").write_bytes((REPOSITORY / "structures.yaml").read_bytes())
    settings = (REPOSITORY / "params.yaml").read_text()
    assert "  - phantom\n" in settings
    (folder / "params.yaml").write_text(settings.replace("  - phantom\n", "  - acdc\n"))
    (folder / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(folder)
    return folder


def test_it_names_scans_as_its_project_does(cohort: Path, experiment: Path) -> None:
    made = key.of_project()
    assert (project.state_path(), project.home()) == (cohort.parents[1] / ".medseg", cohort.parents[1])
    assert project.state_path().stat().st_mode & 0o077 == 0
    assert key.known().fingerprint() == made.fingerprint()
    assert not (experiment / ".medseg").exists()


def test_it_reads_the_scans_of_its_project(cohort: Path, experiment: Path) -> None:
    project.link_scans()
    project.link_scans()
    assert project.RAW.resolve() == cohort
    inventory.main()
    assert pq.read_table(project.INVENTORY).num_rows == len([path for path in cohort.rglob("*") if path.is_file()]) > 0


def test_a_project_of_ones_own_gets_no_link(cohort: Path) -> None:
    cohort.rename(cohort.with_name("elsewhere"))
    project.link_scans()
    assert not project.RAW.exists()
