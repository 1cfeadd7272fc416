"""What a result can be traced to: digests of what made it, and the commits of project and program.

Made of content alone - outputs upstream by their hashes in dvc.lock, and parameters as parsed - so that a comment in
params.yaml or a setting that touches nothing of it makes no other result of it.
"""

import hashlib
import json
import platform
import subprocess
from collections import Counter
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from pipelines.release import plan
from pipelines.scans import manifest
from pipelines.work import code, project

HERE = Path(__file__).parents[2]  # the source checkout, or where packages are installed
# What can change a result. The lock and the parameters are hashed by themselves, documents and tests change nothing.
CODE = ("model", "pipelines", "dvc.yaml", "pyproject.toml", "requirements.lock")
PROC = Path("/proc")


def of_stage(stage: str, *blocks: BaseModel) -> dict[str, str]:
    """Identity of what `stage` makes, the same wherever it is made again. `blocks`: its parameters."""
    return {
        "inputs_sha256": inputs_sha256(stage),
        "manifest_sha256": manifest.digest(),
        "params_sha256": parameters_sha256(*blocks),
    }


def parameters_sha256(*blocks: BaseModel) -> str:
    text = json.dumps([block.model_dump(mode="json", by_alias=True) for block in blocks], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def inputs_sha256(stage: str) -> str:
    """sha256 of the hashes, as dvc.lock holds them, of everything that `stage` reads; empty where there is no lock."""
    lock = project.root() / "dvc.lock"
    if not lock.is_file():
        return ""
    wanted = [PurePosixPath(path) for path in _yaml(project.root() / "dvc.yaml")["stages"][stage]["deps"]]
    found = {
        out["path"]: out[out.get("hash", "md5")]
        for entry in (_yaml(lock).get("stages") or {}).values()
        for out in entry.get("outs", [])
        if any(PurePosixPath(out["path"]).is_relative_to(path) for path in wanted)
    }
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def origin() -> dict[str, str]:
    """Tags: the project's commit, and the program's, which are the same where the project is the source checkout; and
    on what a training here runs."""
    return {"git_commit": _commit(project.root()), "program": program(), "processor": processor()}


def processor() -> str:
    """The CPU's model, with its family and number, and those of its GPUs, as in `AMD EPYC (25 17); 8 NVIDIA H100 80GB
    HBM3`: only between equal ones are results equal to the bit."""
    name, *numbers = (_told(PROC / "cpuinfo", key) for key in ("model name", "cpu family", "model"))
    gpus = Counter(_told(file, "Model") for file in (PROC / "driver/nvidia/gpus").glob("*/information"))
    counted = [f"{count} {name}" for name, count in sorted(gpus.items())]
    return "; ".join([f"{name or platform.machine()} ({' '.join(numbers).strip()})", *counted])


def _told(file: Path, name: str) -> str:
    """Of `NAME : VALUE` lines the first value; empty if there is none."""
    lines = file.read_text().splitlines() if file.is_file() else []
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")


def people(commit: str = "HEAD") -> dict[str, str]:
    """E-mail addresses, as git knows them: who runs this, who wrote and who committed this commit of the project."""
    commit = commit.removesuffix("-dirty")
    try:
        told = _git(project.root(), "log", "-1", "--format=%ae%n%ce", "--end-of-options", commit)
        author, committer = told.split("\n")[:2]
    except (OSError, subprocess.CalledProcessError):  # no git, no commit
        author = committer = ""
    try:
        trainer = _git(project.root(), "config", "user.email").strip()
    except (OSError, subprocess.CalledProcessError):
        trainer = ""
    return {"trainer": trainer, "author": author, "committer": committer}


def plan_sha256() -> str:
    """Of release/plan.yaml as parsed, by which a version will be judged; empty where there is none."""
    return plan.digest(plan.read()) if (project.root() / plan.FILE).is_file() else ""


def program() -> str:
    """The commit of the checkout that this code lies in, as in 3f2a...-dirty; of an installed package its version and
    the head of its digest, as in 0.1.0+3f2a..."""
    if (HERE / ".git").exists():  # in it, not above: a project under git may hold the environment
        return _commit(HERE)
    return f"{metadata.version('medsegformer')}+{code.of_program()[:12]}"


def _commit(folder: Path) -> str:
    """With `-dirty` if anything that can change a result differs from it; `unknown` outside git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        changed = _git(folder, "status", "--porcelain", "--", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed.strip() else commit


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=folder).stdout


def _yaml(path: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe", pure=True).load(path.read_text()))
