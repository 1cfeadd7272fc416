"""What all tests share: quiet tools, how they are spread over processes, and folders of small real files."""

import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from pipelines.release import tracking
from pipelines.work import exclusive

gc.disable()  # while modules are imported; see pytest_collection_finish
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    DVC_NO_ANALYTICS="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a script; programs of tests inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("repeatable", derandomize=True)  # --hypothesis-profile default tries other examples
settings.load_profile("repeatable")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks gain nothing from threads and lose much beside others

REPOSITORY = Path(__file__).parents[1]
# What takes longest, in this order, so that none of it is begun last; `--quick` leaves it out. A folder's files are one
# group: they share servers.
LONGEST = (
    "tests/test_pipeline.py",
    "tests/pipelines/training/test_on_clusters.py",
    "tests/test_installed.py",
    "tests/flows",
    "tests/security",
    "tests/pipelines/service",
    "tests/pipelines/pages/test_report_in_chromium.py",
    "tests/pipelines/training/test_survival.py",
    "tests/pipelines/training/test_many_machines.py",
    "tests/model/network/test_network.py",
    "tests/pipelines/training/test_certification.py",
    "tests/model/engine/test_ranks.py",
    "tests/model/engine/test_trainer.py",
    "tests/pipelines/serving/test_exporting.py",
    "tests/model/engine/test_checkpoints.py",
    "tests/model/engine/test_compile.py",
    "tests/model/certificate",
    "tests/pipelines/release/test_on_a_server.py",
    "tests/pipelines/dicom",
    "tests/pipelines/stages/test_stages.py",
    "tests/pipelines/stages/test_any_structures.py",
    "tests/pipelines/stages/test_preprocess.py",
    "tests/pipelines/serving/test_mlflow_serving.py",
    "tests/pipelines/serving/test_remeasuring.py",
    "tests/pipelines/release/test_accounts.py",
    "tests/pipelines/release/test_card.py",
    "tests/pipelines/release/test_lineage.py",
    "tests/pipelines/training/test_ladder.py",
    "tests/pipelines/questions/test_verification.py",
    "tests/pipelines/stages/test_ingest.py",
    "tests/pipelines/serving/test_gate_check.py",
    "tests/pipelines/serving/test_answering.py",
    "tests/model/data/test_many_files.py",
    "tests/pipelines/scans/test_naming.py",
    "tests/pipelines/training/test_launcher.py",
    "tests/pipelines/release/test_bundle.py",
    "tests/model/tasks/test_masked_on_ranks.py",
    "tests/model/tasks/test_masked.py",
    "tests/model/tasks/test_inference.py",
    "tests/pipelines/cases/test_forecast.py",
    "tests/pipelines/work/test_dask_executor.py",
    "tests/pipelines/questions/test_spellings.py",
    "tests/pipelines/serving/test_footprint.py",
    "tests/pipelines/serving/test_prediction.py",
    "tests/pipelines/stages/test_held_out.py",
    "tests/model/metrics/test_overlap.py",
)


def copy_checkout(target: Path) -> Path:
    """The files git knows, links as links."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (REPOSITORY / name).exists() and name != "dvc.lock":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, target / name, follow_symlinks=False)
    return target


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one more than cores, since much of the suite waits for processes that start."""
    return len(os.sched_getaffinity(0)) + 1


class InGroups(LoadScopeScheduling):
    """A group's tests run in one process, one after the other, as they share what they have made."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return InGroups(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="without what starts servers, ranks or whole runs (LONGEST)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    relative = collection_path.relative_to(REPOSITORY).as_posix()
    return True if config.getoption("--quick") and relative in LONGEST else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest groups first."""
    groups = {item: _group(item.nodeid.partition("::")[0]) for item in items}
    items.sort(key=lambda item: LONGEST.index(groups[item]) if groups[item] in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """A million objects of imported modules are garbage never: to look through them took a tenth of all tests' time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def _group(path: str) -> str:
    """A file, or one of the folders among LONGEST."""
    return next((group for group in LONGEST if path.startswith(group)), path)


@pytest.fixture(scope="module", autouse=True)
def own_environment() -> Iterator[None]:
    """MLflow writes the address of its store into the environment: the next file's tests would read this one's."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def mlflows_tables_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In this process: migrations of an empty store take a second of CPU time, and forty tests begin with one."""
    made, migrate = tmp_path_factory.mktemp("mlflow") / "mlflow.db", tracking._migrate

    def copied(file: Path) -> None:
        if not made.exists():
            migrate(made)
        shutil.copyfile(made, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "_migrate", copied)
        yield


@pytest.fixture(scope="session")
def prefects_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's database as its migrations leave it, which take 5 s of CPU time: made once for all processes."""
    shared = tmp_path_factory.getbasetemp()
    home = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "prefect"
    made = home / "prefect.db"
    with exclusive.opened(home / "lock"):
        if not made.exists():
            environment = {**os.environ, "PREFECT_HOME": str(home)}
            subprocess.run(
                [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"],
                check=True,
                env=environment,
                capture_output=True,
            )
    return made


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write an array as NIfTI, 1 mm unless told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten small ACDC patients with one frame each below tmp_path/data/raw; the working folder is tmp_path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    raw = tmp_path / "data" / "raw"
    for number in range(10):
        rng = np.random.default_rng(number)
        name = f"patient{number:03d}"
        label = np.zeros((12, 12, 4), np.uint8)
        label[3:6, 3:9, 1:3], label[6:8, 3:9, 1:3], label[8:9, 3:9, 1:3] = 1, 2, 3
        image = rng.integers(1, 100, label.shape).astype(np.int16) + 100 * label.astype(np.int16)
        affine = np.diag([1.5, 1.5, 10, 1])
        save(raw / name / f"{name}_frame01.nii.gz", image, affine)
        save(raw / name / f"{name}_frame01_gt.nii.gz", label, affine)
    return raw
