"""What a cluster's job trained, kept until the stage that asked for it takes it.

A stage that waits for a job may die, and DVC removes a stage's outputs before it starts it again: a result that lay
there alone would be gone. So a job (MEDSEG_IN_JOB) keeps it in .medseg/finished/RUN as well, by links to the same
files. RUN is named by content (rank.py: run_folder), so that no other run takes it.
"""

import os
import shutil
import time
from pathlib import Path

from pipelines.work import project
from pipelines.work.writing import replacing

OUTPUTS = {"pretrain": (project.PRETRAINED, project.PRETRAINING_REPORT), "train": (project.TRAINED,)}
SEEN_S = 60.0  # until a network disk shows here what was written there


def keep(stage: str, run: str) -> None:
    """The stage's outputs, as they are now: all or nothing."""
    with replacing(_folder(run)) as temporary:
        for output in OUTPUTS[stage]:
            shutil.copytree(output, temporary / output, copy_function=_link)


def kept(run: str) -> bool:
    return _folder(run).is_dir()


def take(stage: str, run: str, patience_s: float = 0.0) -> bool:
    """Put what is kept where the stage's outputs are, and keep it no longer. False if nothing is."""
    deadline = time.monotonic() + patience_s
    while not kept(run):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.5)
    for output in OUTPUTS[stage]:
        with replacing(output) as temporary:
            shutil.copytree(_folder(run) / output, temporary, copy_function=_link)
    shutil.rmtree(_folder(run))
    return True


def _folder(run: str) -> Path:
    return project.state_folder() / "finished" / run


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
