"""`medseg launch`: a training stage as what a cluster takes, to be read, changed, or given to it by hand."""

from enum import StrEnum
from typing import Annotated

import typer

from flows.commands.common import enter_project, group
from flows.commands.long_run import TrainingStage

launch_app = group("Training on a cluster: what it is given.")


class Form(StrEnum):
    slurm = "slurm"
    indexed_job = "indexed-job"
    jobset = "jobset"
    trainjob = "trainjob"


@launch_app.callback()
def launch() -> None:
    """A group, though it has one command."""


@launch_app.command("render")
def render(
    to: Annotated[Form, typer.Option(help="Slurm's batch script, or Kubernetes manifests of this form")],
    stage: Annotated[TrainingStage, typer.Option(help="of the pipeline, all before it done")] = TrainingStage.train,
) -> None:
    """A training stage as a job, placed by variables of the environment (`medseg env`); the certificate is checked.

    The result is kept in the project, and the next `medseg run` takes it.
    """
    enter_project()
    from pipelines.training import rendering

    print(rendering.rendered(to.value, stage.value), end="")
