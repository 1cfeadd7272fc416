"""DVC as a program of its own: which stages there are, which are stale, bring one up to date.

In-process, dvc resolves paths on our working directory and prints past the logger. As a program it runs in the
project's lock, tethered, and every line it or the stage prints is handed on as it comes.
"""

import codecs
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ruamel.yaml import YAML, YAMLError

from flows import cost, lock, processes
from pipelines.work import project
from pipelines.work.progress import EVERY_S

# What dvc says after every stage; true, and for somebody who calls dvc by hand.
DVC_ADVICE = (
    "To track the changes with git, run:",
    "git add ",
    "To enable auto staging, run:",
    "dvc config core.autostage",
    "Use `dvc push` to send",
    "Generating lock file",
    "Updating lock file",
)


# What DVC says, and what helps.
REMEDIES = {
    "is not a git repository": "run `git init` there: DVC works in a git repository only",
    "not inside of a DVC repository": "change into the project, or run `git init` and `dvc init` there",
    "No space left on device": "free space there, or have `.dvc/cache` elsewhere (`dvc cache dir`), and run again",
    "Unable to acquire lock": "another DVC works in this project; wait for it",
}
LOCK_REMEDY = (
    "take the committed one back with `git checkout dvc.lock`, or remove it: the next run makes it anew, mostly from "
    "DVC's cache"
)


class StageFailedError(ValueError):
    """A stage ended with an error; the message is the stage's own last line."""


@dataclass(frozen=True)
class DvcStage:
    """A stage of dvc.yaml. `deps` and `outs` are paths."""

    name: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    always_changed: bool

    def feeds(self, other: "DvcStage") -> bool:
        return any(_touch(out, dep) for out in self.outs for dep in other.deps)


def declared() -> list[DvcStage]:
    """The stages of dvc.yaml, in its order."""
    stages = _read_yaml(project.root() / "dvc.yaml").get("stages", {})
    return [
        DvcStage(name, _paths(body.get("deps")), _paths(body.get("outs")), bool(body.get("always_changed")))
        for name, body in stages.items()
    ]


def stale() -> set[str]:
    """Stages whose inputs, outputs or parameters changed, and all that follow from them.

    Being `always_changed` is no change: such a stage is asked at every run, the rest only if its outputs differ.
    """
    with lock.held(doing="status") as held:
        lines: list[str] = []
        _dvc(["status", "--json"], held, on_stdout=lines.append)
    report = json.loads("\n".join(lines))
    return downstream(declared(), {name for name, changes in report.items() if changes != ["always changed"]})


def downstream(stages: list[DvcStage], changed: set[str]) -> set[str]:
    """`changed` and every stage that reads, directly or not, what one of them writes."""
    found = {stage.name for stage in stages if stage.name in changed}
    while True:
        sources = [stage for stage in stages if stage.name in found]
        more = {stage.name for stage in stages if any(source.feeds(stage) for source in sources)} - found
        if not more:
            return found
        found |= more


def reproduce(stage: str, on_line: Callable[[str], None]) -> None:
    """`dvc repro --single-item`, every line to `on_line`.

    Raises StageFailedError with the stage's last error line.
    """
    with lock.held() as held:
        held.say(stage=stage)
        with cost.metered(stage, on_line):
            _dvc(["repro", "--single-item", stage], held, on_line, on_line, stage)


def check_out() -> None:
    """What dvc.lock names, from the cache to its place. Raises StageFailedError if the cache lacks some of it."""
    with lock.held(doing="restore") as held:
        _dvc(["checkout", "--force"], held, lambda _: None)


def output_hashes(stage: str) -> dict[str, str]:
    """Path -> hash of the stage's outputs, as dvc.lock holds them."""
    entry = locked()[stage]
    return {out["path"]: out[out.get("hash", "md5")] for out in entry.get("outs", [])}


def locked() -> dict[str, Any]:
    """The stages' entries in dvc.lock; empty before the first run. Raises ValueError if it is damaged."""
    lock_file = project.root() / "dvc.lock"
    if not lock_file.is_file():
        return {}
    if "<<<<<<< " in (text := lock_file.read_text(errors="replace")):
        raise ValueError(f"{lock_file} holds both sides of a merge; {LOCK_REMEDY}")
    try:
        content = _read_yaml(lock_file)
        return dict(content["stages"] or {} if content["schema"] else {})
    except (YAMLError, ValueError, KeyError, TypeError):
        raise ValueError(f"{lock_file} is {'damaged' if text.strip() else 'empty'}; {LOCK_REMEDY}") from None


def _environment() -> dict[str, str]:
    """Ours, quiet, with this interpreter's folder first in PATH: stage commands say `python`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}


def _dvc(
    arguments: list[str],
    held: lock.Lock,
    on_stdout: Callable[[str], None],
    on_stderr: Callable[[str], None] = lambda line: None,
    stage: str = "",
) -> None:
    locked()  # a damaged one is told with what helps
    mark = processes.new_mark()
    held.say(mark=mark)
    errors: deque[str] = deque(maxlen=50)
    command = [sys.executable, "-m", "dvc", *arguments]
    pipe = subprocess.PIPE
    with processes.running(
        command, _environment(), mark=mark, keep_open=[held.fd], cwd=project.root(), stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for is_error, line in _lines({process.stdout: False, process.stderr: True}):
            if not line.strip() or line.strip().startswith(DVC_ADVICE):
                continue
            if is_error:
                errors.append(line)
            (on_stderr if is_error else on_stdout)(line)
        returncode = process.wait()
    if returncode:
        raise StageFailedError(_last_error(list(errors), stage or f"dvc {arguments[0]}", returncode))


def _lines(streams: Mapping[IO[bytes], bool]) -> Iterator[tuple[bool, str]]:
    """(is_error, line) as they come. Of a line that redraws itself by carriage returns: one state in 5 s, the last."""
    with selectors.DefaultSelector() as selector:
        for stream, is_error in streams.items():
            selector.register(stream, selectors.EVENT_READ, (is_error, _Splitter()))
        while selector.get_map():
            for key, _ in selector.select():
                is_error, splitter = key.data
                block = os.read(key.fd, 1 << 16)
                if not block:
                    selector.unregister(key.fileobj)
                for line in splitter.feed(block, last=not block):
                    yield is_error, line


class _Splitter:
    """Bytes in, whole lines out. A progress bar redraws itself many times a second; of it one line in EVERY_S."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._drawn_at = float("-inf")

    def feed(self, block: bytes, last: bool) -> Iterator[str]:
        text = self._rest + self._decoder.decode(block, final=last)
        *lines, self._rest = text.replace("\r\n", "\n").split("\n")
        if last and self._rest:
            lines, self._rest = [*lines, self._rest], ""
        yield from (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines)
        drawn, separator, begun = self._rest.rpartition("\r")
        if separator and begun:  # `\r` alone at the end may be half of `\r\n`
            self._rest = begun
            if time.monotonic() - self._drawn_at > EVERY_S:
                self._drawn_at = time.monotonic()
                yield drawn.rpartition("\r")[2].rstrip()


def _last_error(errors: list[str], name: str, returncode: int) -> str:
    ours = (line.removeprefix("ERROR: ").removeprefix(f"failed to reproduce '{name}': ") for line in errors)
    lines = [line for line in ours if not line.startswith("failed to run: ")]  # dvc's word for any stage that failed
    own = [line for line in lines if line.startswith(f"{name}: ")]  # the house's form, see pipelines/__main__.py
    if own:
        return own[-1]
    if not lines:
        return f"{name}: ended with exit code {returncode} and said nothing"
    # dvc's own errors name the file first and what is wrong with it below
    told = lines[-1].strip() if len(lines) < len(errors) else " ".join(line.strip() for line in lines[-5:])
    helps = [remedy for words, remedy in REMEDIES.items() if words in told]
    return "; ".join([f"{name}: {told}", *helps])


def _paths(entries: list[Any] | None) -> tuple[str, ...]:
    return tuple(entry if isinstance(entry, str) else next(iter(entry)) for entry in entries or [])


def _touch(first: str, second: str) -> bool:
    """Same path, or one inside the other."""
    a, b = PurePosixPath(first), PurePosixPath(second)
    return a.is_relative_to(b) or b.is_relative_to(a)


def _read_yaml(path: Path) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(path.read_text()) or {}
