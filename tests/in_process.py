"""`medseg` in this process, where nothing that is asserted depends on its being another: torch, MLflow and Prefect are
imported already."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from flows import processes, server
from flows.commands.medseg import app
from pipelines.release import tracking

OURS = ("MEDSEG", "MLFLOW_TRACKING", "PREFECT")


@contextmanager
def inside(project: Path, **environment: str) -> Iterator[None]:
    """The working folder is the project's; of our variables there are those told, and no others.

    The code that runs is the checkout's, whatever the project has of it.
    """
    processes._call_guardian()  # here: of a process that works in a project, tests ask who left it there
    before, folder = dict(os.environ), Path.cwd()
    for name in [name for name in before if name.startswith(OURS)]:
        del os.environ[name]
    os.environ.update(environment)
    os.chdir(project)
    tracking._configured.cache_clear()  # MLflow is pointed to one project at a time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of MLflow, of its own code
            yield
    finally:
        tracking._configured.cache_clear()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)


def medseg(project: Path, *arguments: str, **environment: str) -> Result:
    """A flow needs PREFECT_API_URL in `environment`: it runs on that server."""
    with inside(project, **{"COLUMNS": "120", **environment}):
        if "PREFECT_API_URL" not in environment:
            return CliRunner().invoke(app, arguments)
        with _prefect_of_now():
            return CliRunner().invoke(app, arguments)


@contextmanager
def _prefect_of_now() -> Iterator[None]:
    """Prefect keeps what it read and opened at its import: for the block, the environment and stderr as they are."""
    import prefect.main  # noqa: F401  # what sets its log up
    from prefect.context import SettingsContext, get_settings_context
    from prefect.logging.handlers import PrefectConsoleHandler
    from prefect.settings import Settings

    handlers = [each for each in logging.root.handlers if isinstance(each, PrefectConsoleHandler)]
    consoles = [each.console for each in handlers]
    server.prepare_environment()
    try:
        for handler in handlers:
            handler.console = Console(stderr=True, markup=False, highlight=False)
        with SettingsContext(profile=get_settings_context().profile, settings=Settings()):
            yield
            server._send_what_is_queued()
    finally:
        for handler, console in zip(handlers, consoles, strict=True):
            handler.console = console
