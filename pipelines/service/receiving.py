"""What other processes and folders give to the queue: files that become a job."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipelines.service.job import Ask
from pipelines.service.queue import QueueFullError, Spool, spool_of
from pipelines.service.serve_settings import ServeSettings


@dataclass
class ToSpool:
    """`accept(files, key) -> bool` of the DIMSE receiver, for a process of its own: False if the queue is full."""

    settings: ServeSettings
    sender: str
    ask: Ask

    @cached_property
    def spool(self) -> Spool:
        return spool_of(self.settings)

    def __call__(self, files: Sequence[Path], key: str) -> bool:
        if self.spool.known(self.sender, key) is not None:
            return True
        with suppress(QueueFullError):
            folder = self.spool.arriving(self.sender)
            try:
                for file in files:
                    link_or_copy(file, folder / file.name)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self.spool.accept(folder, self.ask, self.sender, key)
            return True
        return False


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another disk
        shutil.copyfile(source, target, follow_symlinks=False)
