"""`medseg` in this process, where nothing that is asserted depends on its being another: torch, MLflow and Prefect are
imported already."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from flows import processes
from flows.commands.medseg import app

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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of MLflow, of its own code
            yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)


def medseg(project: Path, *arguments: str, **environment: str) -> Result:
    """Not for a flow: after one, Prefect's threads let no fork of this process end well."""
    with inside(project, **{"COLUMNS": "120", **environment}):
        return CliRunner().invoke(app, arguments)
