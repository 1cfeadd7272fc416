"""Where and how a run happens: every MEDSEG_ variable, typed and bounded. `medseg env` lists them.

    environment.read().workers      read at the moment of use, so that a change of the environment counts

Placement is no parameter: it changes no result, so it stands outside params.yaml and its hashes.
"""

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipelines.work.wording import did_you_mean, short, type_and_bound

log = logging.getLogger(__name__)

PREFIX = "MEDSEG_"
SESSION = "MEDSEG_SESSION"  # the mark by which flows/processes.py finds what it started; set by the program itself
ONLY_IN_TESTS = "MEDSEG_TEST_DATA"
SECRETS = ("key_file", "webhook")  # also the name of the key's file is nobody's business


def _unset(means: str, description: str, **bounds: Any) -> Any:
    """A variable without a default value; `means`: what is done without it."""
    return Field(default=None, description=description, json_schema_extra={"unset": means}, **bounds)


def _folders(value: Any) -> Any:
    return tuple(name for name in value.split(os.pathsep) if name) if isinstance(value, str) else value


class Environment(BaseSettings):
    """The variables by their names without the prefix, in small letters. An empty one counts as unset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    root: Path | None = _unset("the nearest folder upwards with dvc.yaml", "the project")
    workers: int | None = _unset(
        "one a core", "processes of deidentify, ingest, plan, preprocess and evaluate", ge=1, le=4096
    )
    dask: str | None = _unset(
        "a cluster on this machine",
        "scheduler's address for `preprocess.executor: dask`, as in tcp://host:8786",
        pattern=r"^([a-z]+://)?\S+:[0-9]+$",
    )
    linked: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_folders)] = Field(
        default=(), description="folders outside that links inside data/raw may lead to, separated by colons"
    )
    key_file: Path | None = _unset(
        "the project's own key, and no DICOM", "file of the secret key that patients' pseudonyms are made with"
    )
    ranks: int | None = _unset(
        "all GPUs, else as many cores as share the batch evenly",
        "training processes of a machine (torchrun)",
        ge=1,
        le=65_536,
    )
    nodes: int | None = _unset(
        "Slurm's, else 1", "machines that train together; the same command is started once on each", ge=1, le=65_536
    )
    node_rank: int | None = _unset("Slurm's, else 0", "number of this machine among them, from 0", ge=0, le=65_535)
    rendezvous: str | None = _unset(
        "Slurm's first machine", "where they meet: host:port of machine 0", pattern=r"^\S+:[0-9]+$"
    )
    loaders: int | None = _unset("8 with GPUs, else 0", "loader processes a rank", ge=0, le=256)
    shard_ranks: int | None = _unset(
        "the ranks of a node", "how many ranks share a copy of the weights under `hsdp`", ge=1, le=65_536
    )
    checkpoints: Path | None = _unset(".medseg/checkpoints", "folder of checkpoints; every rank must see it")
    checkpoint_s: float = Field(default=600, ge=0, allow_inf_nan=False, description="seconds between checkpoints")
    hang_s: float = Field(
        default=1800,
        gt=0,
        allow_inf_nan=False,
        description="a rank without a step for so many seconds writes its stacks and ends",
    )
    grace_s: int = Field(
        default=120, ge=1, le=86_400, description="seconds that ranks get to finish a step and save when asked to stop"
    )
    restarts: int = Field(default=3, ge=0, le=1000, description="how often dead or hung ranks are replaced")
    uncertified: bool = Field(
        default=False, description="train on many GPUs without a launch certificate; the run's record says so"
    )
    deterministic: bool = Field(
        default=False, description="on GPUs, only kernels that give the same bits in every run; slower, more memory"
    )
    webhook: SecretStr | None = _unset(
        "nobody is told", "address that gets what needs a person as JSON: runs that failed, requests that wait"
    )
    debug: bool = Field(default=False, description="show the trace of an error")
    launcher: Literal["local", "slurm"] = Field(
        default="local", description="where `pretrain` and `train` run: on this machine, or as a job of Slurm's"
    )
    gpus: int | None = _unset("none", "GPUs that a cluster is asked for on each machine", ge=1, le=64)
    gpu: str | None = _unset(
        "not checked before",
        "their kind, as `medseg certify --gpu` has it: for the certificate, before a job is queued",
    )
    cpus: int | None = _unset("one a rank", "cores that a cluster is asked for on each machine", ge=1, le=4096)
    image: str | None = _unset(
        "no container", "what a cluster runs the ranks in: a .sif file for Slurm (Apptainer), an image for Kubernetes"
    )
    requeues: int = Field(
        default=10, ge=0, le=1000, description="how often a job that had to stop is queued again by itself"
    )
    slurm_account: str | None = _unset("Slurm's own", "account that a job is charged to")
    slurm_partition: str | None = _unset("Slurm's own", "partition of a job")
    slurm_qos: str | None = _unset("Slurm's own", "quality of service of a job")
    slurm_constraint: str | None = _unset("none", "features that machines must have, as in a100&ib")
    slurm_reservation: str | None = _unset("none", "reservation that a job runs in")
    slurm_extra: str | None = _unset("none", "more options of sbatch, as in --time 2-0 --mem 400G")
    slurm_prologue: str | None = _unset("none", "shell lines of a job before its ranks, as in module load cuda")
    slurm_export: str | None = _unset("none", "more variables that a job sees, by name, separated by commas")
    kube_queue: str | None = _unset("none", "Kueue's local queue that a job waits in")
    kube_claim: str = Field(
        default="medseg", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", description="volume claim that holds the project"
    )
    kube_secret: str | None = _unset("none", "secret whose keys are pods' variables, as in MLFLOW_TRACKING_PASSWORD")
    kube_memory_gib: int = Field(default=32, ge=1, le=65_536, description="memory of a pod, a quarter for loaders")
    in_job: bool = Field(default=False, description="set in a cluster's job: its result is kept for the stage")


def read() -> Environment:
    """All of them as they are now. Raises ValueError naming each wrong one with value, bound and remedy."""
    return _read(frozenset((name, value) for name, value in os.environ.items() if name.startswith(PREFIX)))


@lru_cache(maxsize=1)
def _read(_now: frozenset[tuple[str, str]]) -> Environment:
    """pydantic-settings takes milliseconds, and the project's root is asked for often."""
    try:
        return Environment()
    except ValidationError as error:
        raise ValueError("; ".join(_explain(detail) for detail in error.errors())) from None


def debugging() -> bool:
    """Whether traces are wanted; asked while an error is told, which may be about the environment itself."""
    try:
        return read().debug
    except ValueError:
        return False


def rows() -> list[dict[str, Any]]:
    """What `medseg env` shows: name, value (None: unset), default, type, bound, description, problem of each."""
    schema = Environment.model_json_schema()["properties"]
    problems = _problems()
    return [
        {
            "name": _name(field),
            "value": _shown(field),
            "default": node.get("unset", _spelled(node["default"])),
            **dict(zip(("type", "bound"), type_and_bound(node.get("anyOf", [node])[0]), strict=True)),
            "description": node["description"],
            "problem": problems.get(field),
        }
        for field, node in schema.items()
    ]


def unknown() -> list[str]:
    """A remark on every variable that begins like ours and that nothing reads."""
    ours = [*map(_name, Environment.model_fields), SESSION, ONLY_IN_TESTS]
    names = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in ours)
    return [f"{name} is set, and nothing reads it{did_you_mean(name, ours[:-2])}" for name in names]


def warn_of_unknown() -> None:
    """Once for a command and all that it starts.

    Not refused: Kubernetes sets MEDSEG_SERVICE_HOST and the like in every pod beside a service called `medseg`.
    """
    if SESSION not in os.environ and "RANK" not in os.environ:
        for remark in unknown():
            log.warning("%s; `medseg env` lists all", remark)


def _problems() -> dict[str, str]:
    try:
        Environment()
    except ValidationError as error:
        return {str(detail["loc"][0]): _explain(detail) for detail in error.errors()}
    return {}


def _explain(detail: Any) -> str:
    """One pydantic error in the house's form: name, value, bound, remedy."""
    field = str(detail["loc"][0])
    bound = detail["msg"].replace("Input should be", "must be")
    description = Environment.model_fields[field].description
    return f"{_name(field)} = {short(detail['input'])}: {bound}; set it within that bound, or unset it ({description})"


def _name(field: str) -> str:
    return PREFIX + field.upper()


def _shown(field: str) -> str | None:
    value = os.environ.get(_name(field)) or None
    return "set" if value and field in SECRETS else value


def _spelled(default: Any) -> str:
    return {False: "off", (): "none"}.get(default if not isinstance(default, list) else tuple(default), str(default))
