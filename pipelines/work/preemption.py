"""A training that was asked to stop and saved its state: who started it goes on with the same command, soon.

torchrun, the launcher and `medseg` say so by their exit code, 75. DVC swallows the exit code of a stage, so the
launcher also leaves a note, `.medseg/preempted.json`, which flows/stage_task.py looks for. It is of the last start.
"""

import json
import os
from pathlib import Path

from pipelines.work import project
from pipelines.work.writing import write_json

EXIT_CODE = os.EX_TEMPFAIL  # 75, as model/engine/watch.py has it


class PreemptedError(ValueError):
    """Training was asked to stop; the message says how it goes on."""


def note(stage: str) -> None:
    write_json(_path(), {"stage": stage})


def forget() -> None:
    _path().unlink(missing_ok=True)


def noted(stage: str) -> bool:
    """Was `stage` preempted since `forget`?"""
    try:
        return bool(json.loads(_path().read_text())["stage"] == stage)
    except (OSError, ValueError, KeyError, TypeError):  # none, or half of one
        return False


def message(stage: str) -> str:
    return f"{stage} was asked to stop and saved its state; the same command goes on from the checkpoint"


def _path() -> Path:
    return project.state_folder() / "preempted.json"
