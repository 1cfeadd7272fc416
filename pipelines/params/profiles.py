"""Whole parameter files by name: profiles/NAME.yaml takes the place of params.yaml."""

import os
import time
from pathlib import Path

from pipelines import params
from pipelines.work import project


def names() -> list[str]:
    return sorted(file.stem for file in (project.root() / "profiles").glob("*.yaml"))


def path(name: str) -> Path:
    """The profile's file. Raises ValueError with the known names when there is none."""
    if name not in names():
        raise ValueError(f"no profile {name!r}; known: {', '.join(names()) or 'none, profiles/ is empty'}")
    return project.root() / "profiles" / f"{name}.yaml"


def use(name: str) -> Path | None:
    """Validate profiles/NAME.yaml and copy it over params.yaml, whole or not at all.

    Returns where a params.yaml of one's own (equal to no profile) was kept, or None. Raises ParamsError.
    """
    source, target = path(name), project.root() / "params.yaml"
    params.load(source)
    text, before = source.read_bytes(), target.read_bytes() if target.exists() else None
    if before == text:
        return None
    kept = None if before is None or before in _all() else _keep(before)
    _write(target, text)
    return kept


def in_use() -> str | None:
    """The profile that params.yaml equals, or None."""
    target = project.root() / "params.yaml"
    text = target.read_bytes() if target.exists() else None
    return next((name for name in names() if path(name).read_bytes() == text), None)


def _all() -> list[bytes]:
    return [path(name).read_bytes() for name in names()]


def _keep(text: bytes) -> Path:
    kept = project.state() / f"params-{time.strftime('%Y%m%d-%H%M%S')}.yaml"
    _write(kept, text)
    return kept


def _write(target: Path, text: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_bytes(text)
    temporary.replace(target)
