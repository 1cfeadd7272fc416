"""A training stage as the text that a cluster takes, to be given to it by hand: `medseg launch render`."""

import shlex

import yaml

from pipelines import params
from pipelines.training import manifests, slurm_script
from pipelines.training.rank import block_of, run_folder
from pipelines.training.wanted import Machines, asked_for
from pipelines.work import project


def rendered(form: str, stage: str) -> str:
    """`form`: slurm, or one of manifests.FORMS. Raises ValueError if the certificate, or what is not set, says no."""
    settings = params.load()
    block = block_of(stage, settings)
    if not block.steps:
        raise ValueError(f"{block.block}.steps is 0, so there is nothing to run on a cluster; set it")
    asked, run = asked_for(settings.model, block), run_folder(stage, settings).name
    if form == "slurm":
        return _batch(stage, run, asked)
    documents = manifests.FORMS[form](stage, f"medseg-{run}", asked)
    return "---\n".join(yaml.safe_dump(each, sort_keys=False, width=120) for each in documents)


def _batch(stage: str, run: str, asked: Machines) -> str:
    """For `sbatch FILE`: the options stand in it."""
    log = project.state_folder() / "jobs" / f"{run}.log"
    options = slurm_script.options(slurm_script.job_name(run), log, asked)
    shebang, rest = slurm_script.script(stage, asked).split("\n", 1)
    return "\n".join([shebang, *(f"#SBATCH {shlex.quote(option)}" for option in options), rest])
