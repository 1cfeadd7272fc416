"""One project and one running service for all tests of the room: a worker's start costs seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import save
from tests.pipelines.service.served import make_project
from tests.pipelines.service.service_process import ServiceProcess, serving
from tests.pipelines.service.standing import Standing, body


@pytest.fixture(scope="session")
def service_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With version 1 of the model m, not released."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def service(service_project: Path) -> Iterator[ServiceProcess]:
    with serving(service_project) as running:
        running.ready()
        yield running


@pytest.fixture(scope="session")
def standing(service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    folder = tmp_path_factory.mktemp("sent")
    with service.client("tester") as client:
        yield Standing(service, client, folder, save(folder / "scan.nii.gz", body()))
