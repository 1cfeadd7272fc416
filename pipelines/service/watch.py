"""A folder that is watched: what is put there becomes a job, and its results lie in another folder once it is answered.

    INBOX/anything.nii.gz    ->    OUTBOX/anything/...          or OUTBOX/anything.refused.txt with the reason

What came is removed once the queue has it. A name that begins with a dot, or ends in .part or .tmp, is being written.
"""

import hashlib
import logging
import shutil
import threading
import time
from pathlib import Path

from pipelines.service.job import DONE, OPEN, Ask, ServiceJob
from pipelines.service.queue import QueueFullError, Spool
from pipelines.service.receiving import link_or_copy
from pipelines.service.serve_settings import ServeLimits, WatchSettings
from pipelines.sources import stem_of
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)

LOOK_S = 1.0
MIB = 1 << 20
SENDER = "watch"
_UNFINISHED = (".part", ".tmp", ".crdownload")


class Watched:
    """`named`: a folder of ours, a file a job, which holds the name that it came by."""

    def __init__(self, spool: Spool, settings: WatchSettings, limits: ServeLimits) -> None:
        self._spool, self._settings, self._limits = spool, settings, limits
        self._ask = Ask(settings.to, modality=settings.modality, deliver=settings.deliver)
        self._named = spool.folder / "watch"
        for folder in (settings.inbox, settings.outbox, self._named):
            folder.mkdir(parents=True, exist_ok=True)
        if settings.outbox.resolve().is_relative_to(settings.inbox.resolve()):
            raise ValueError(f"watch.outbox {settings.outbox} lies in watch.inbox; name a folder outside")
        self._seen: dict[str, tuple[str, float]] = {}

    def run(self, over: threading.Event) -> None:
        while not over.wait(LOOK_S):
            try:
                self.look()
            except Exception as error:  # a full disk, or a file that somebody takes away meanwhile
                log.warning("the watched folder: %s", type(error).__name__)

    def look(self, now: float | None = None) -> None:
        now = time.monotonic() if now is None else now
        entries = [path for path in sorted(self._settings.inbox.iterdir()) if _is_finished(path)]
        self._seen = {path.name: self._seen[path.name] for path in entries if path.name in self._seen}
        for path in entries:
            state = _state(path)
            if self._seen.get(path.name, ("", 0.0))[0] != state:
                self._seen[path.name] = (state, now)
            elif now - self._seen[path.name][1] >= self._settings.settled_s:
                self._take(path, state)
        for named in list(self._named.iterdir()):
            job = self._spool.job(named.name)
            if job.state not in OPEN:
                self._give(job, named.read_text())
                named.unlink()

    def _take(self, path: Path, state: str) -> None:
        """Cut off at any point it is repeated: the key makes it the same job."""
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        total = sum(each.stat().st_size for each in files)
        if not files or len(files) > self._limits.files or total > self._limits.upload_mib * MIB:
            self._refuse(path.name, f"{len(files)} files, {total} bytes: outside of limits.files or limits.upload_mib")
            _remove(path)
            return
        try:
            folder = self._spool.arriving(SENDER)
        except QueueFullError:
            return
        root = path.parent if path.is_file() else path
        for file in files:
            if not file.is_symlink():
                (folder / file.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(file, folder / file.relative_to(root))
        try:
            job_id = self._spool.accept(folder, self._ask, SENDER, f"{path.name} {state}")
        except QueueFullError:
            return
        with replacing(self._named / job_id) as temporary:
            temporary.write_text(path.name)
        _remove(path)

    def _give(self, job: ServiceJob, name: str) -> None:
        if job.state != DONE:
            self._refuse(name, job.reason or job.state)
            return
        with replacing(self._free(stem_of(name))) as temporary:
            shutil.copytree(self._spool.results(job.id), temporary, ignore=shutil.ignore_patterns("answer.json"))

    def _refuse(self, name: str, reason: str) -> None:
        with replacing(self._free(f"{stem_of(name)}.refused.txt")) as temporary:
            temporary.write_text(f"{reason}\n")

    def _free(self, name: str) -> Path:
        """A place in the outbox that nothing lies at."""
        place, number = self._settings.outbox / name, 1
        while place.exists():
            number += 1
            place = self._settings.outbox / f"{number}-{name}"
        return place


def _is_finished(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix not in _UNFINISHED and not path.is_symlink()


def _state(path: Path) -> str:
    """Changes when anything of it does."""
    digest = hashlib.sha256()
    for each in [path] if path.is_file() else sorted(path.rglob("*")):
        found = each.lstat()
        digest.update(f"{each.relative_to(path.parent)} {found.st_size} {found.st_mtime_ns} {found.st_ino}\n".encode())
    return digest.hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
