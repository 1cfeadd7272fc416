"""Can the service answer: what its workers say of themselves, and whether the queue has room."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from pipelines.service.queue import Spool
from pipelines.service.serve_settings import ServeSettings
from pipelines.work.writing import write_json

STARTING = "the workers are starting"


class Readiness(BaseModel):
    """GET /ready."""

    ready: bool
    model: str = Field(default="", description="the version that answers now")
    problem: str = Field(default="", description="why not, and what to do")
    waiting: int = Field(default=0, description="jobs that are not answered yet")


@dataclass(frozen=True)
class NetworkTold:
    """`name`: of the registered model. `structures`: their ids, in the order of the network's classes."""

    name: str
    structures: dict[str, int]
    modalities: list[str]


def tell(folder: Path, number: int, model: str = "", problem: str = "", network: NetworkTold | None = None) -> None:
    """A worker of itself: which version it has, or why none."""
    told = {"pid": os.getpid(), "model": model, "problem": problem, "network": network and asdict(network)}
    write_json(_file(folder, number), told)


def forget(folder: Path) -> None:
    for file in folder.glob("worker-*.json"):
        file.unlink()


def told_by(folder: Path, number: int) -> tuple[str, str]:
    """Model and problem; a worker that is not there, or has not said anything, is a problem."""
    with suppress(OSError, ValueError):
        told = json.loads(_file(folder, number).read_text())
        if Path(f"/proc/{told['pid']}").exists():
            return str(told["model"]), str(told["problem"])
    return "", STARTING


def network_of(folder: Path, workers: int) -> NetworkTold | None:
    """What answers now, if anything does."""
    for number in range(workers):
        if told_by(folder, number)[0]:
            with suppress(OSError, ValueError, TypeError):
                return NetworkTold(**json.loads(_file(folder, number).read_text())["network"])
    return None


def readiness(spool: Spool, settings: ServeSettings) -> Readiness:
    told = [told_by(spool.folder, number) for number in range(settings.workers)]
    model = next((model for model, problem in told if not problem), "")
    waiting = sum(spool.counts().get(state, 0) for state in ("queued", "running"))
    problem = "" if model else told[0][1]
    if model and waiting >= spool.bounds.queue:
        problem = f"the queue is full ({waiting} jobs)"
    return Readiness(ready=not problem, model=model, problem=problem, waiting=waiting)


def _file(folder: Path, number: int) -> Path:
    return folder / f"worker-{number}.json"
