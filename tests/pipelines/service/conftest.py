"""One project and one running service for all tests of the room: a worker's start costs seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.service.served import make_project
from tests.pipelines.service.service_process import ServiceProcess, serving


@pytest.fixture(scope="session")
def service_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With version 1 of the model m, not released."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def service(service_project: Path) -> Iterator[ServiceProcess]:
    with serving(service_project) as running:
        running.ready()
        yield running
