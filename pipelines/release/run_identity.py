"""What a result can be traced to: commit, and digests of lock, manifest and parameters."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines.scans import manifest
from pipelines.work import project
from pipelines.work.digests import sha256_of


def here() -> dict[str, str]:
    """What a result can be traced to: commit, and digests of the pipeline's lock, the manifest and the parameters."""
    return {
        "git_commit": git_commit(),
        "dvc_lock_sha256": upstream_lock_sha256("register"),
        "manifest_sha256": manifest.digest(),
        "params_sha256": sha256_of(Path("params.yaml")),
    }


def upstream_lock_sha256(stage: str) -> str:
    """sha256 of dvc.lock's entries of the stages before `stage`: its own entry is written after it has run."""
    lock = project.root() / "dvc.lock"
    if not lock.is_file():
        return ""
    declared = list(YAML(typ="safe", pure=True).load((project.root() / "dvc.yaml").read_text())["stages"])
    before = declared[: declared.index(stage)] if stage in declared else declared
    stages = YAML(typ="safe", pure=True).load(lock.read_text())["stages"]
    entries = sorted((name, _plain(entry)) for name, entry in stages.items() if name in before)
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Nested mappings as sorted pairs, so that their order does not matter."""
    if isinstance(value, dict):
        return sorted((key, _plain(item)) for key, item in value.items())
    return [_plain(item) for item in value] if isinstance(value, list) else value


def git_commit() -> str:
    """The commit, with `-dirty` if tracked files differ from it; `unknown` outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, check=True, cwd=project.root(),
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
