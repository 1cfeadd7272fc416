"""Checkpoints: complete or absent, written while training goes on, readable by any number of ranks.

    run/
        step-0000100/            has its name because everything in it was written, flushed and summed
            __0_0.distcp ...     tensors, PyTorch's distributed checkpoint (torch.distributed.checkpoint)
            .metadata            its index: the one pickle that we read, and only after its checksum was found right
            state.json           the numbers: step, loss scale, validation curve
            checksums.json       sha256 of every other file
        step-0000100.damaged/    one whose checksums were found wrong: set aside, and never counted
        .step-0000200.partial/   being written; what a killed run left is removed
        latest, best             one line each: the folder's name; best only if it is what the run exports

The folder must be one that all ranks see, which is tried at every start.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
import time
import uuid
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed._state_dict_utils import _create_cpu_state_dict
from torch.distributed.checkpoint import CheckpointException

from model.engine.dtensors import local_part
from model.engine.ranks import Ranks, gather_from_ranks, wait_for_ranks
from model.engine.state import TrainState

log = logging.getLogger(__name__)

# PyTorch's own log of a checkpoint has two lines a tensor, and its warning that one rank saves alone is what is meant.
logging.getLogger("c10d-NullHandler-dcp_logger").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)

SUMS, NUMBERS, LATEST, BEST = "checksums.json", "state.json", "latest", "best"
DAMAGED = ".damaged"
WEIGHTS = ("network.", "average.")  # of a state's tensors: what is released


class Checkpoints:
    """The checkpoints of one run. Every rank calls every method, in the same order."""

    def __init__(self, folder: Path, ranks: Ranks, every_s: float = 600.0, keep: int = 2) -> None:
        self.folder, self.ranks, self.every_s, self.keep = folder, ranks, every_s, keep
        self.staged: dict[str, Tensor] = {}
        self.finishing: threading.Thread | None = None
        self.last = time.monotonic()
        if ranks.rank == 0:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in folder.glob(".*.partial"):
                shutil.rmtree(left)
        self._refuse_if_not_shared()
        _refuse_if_others_write(folder)

    def due(self) -> bool:
        """By this rank's clock; the ranks then agree on it."""
        return time.monotonic() - self.last >= self.every_s

    def save(self, state: TrainState, best: bool = False) -> float:
        """Copy the state and let a thread write it. Returns how long training stood still, in seconds."""
        start = time.monotonic()
        self.wait()  # for the checkpoint before: the ranks must not differ in how many they write
        name = f"step-{state.step:07d}"
        partial = self.folder / f".{name}.partial"
        numbers = json.dumps(state.numbers(), indent=1)
        if self.ranks.rank == 0:
            partial.mkdir(exist_ok=True)  # another rank may have been faster
        self._stage(state.tensors())
        self.finishing = threading.Thread(
            target=self._write, args=(partial, numbers, best), name="checkpoint", daemon=True
        )
        self.finishing.start()
        self.last = time.monotonic()
        return self.last - start

    def wait(self) -> None:
        """Until the checkpoint that is being written is complete or was given up."""
        if self.finishing:
            self.finishing.join()
            self.finishing = None

    def restore(self, state: TrainState) -> bool:
        """Load the newest whole checkpoint in place; False if there never was one. Damaged ones are set aside.

        Raises ValueError if there are checkpoints and none is whole: what was learnt is not replaced by random weights.
        """
        names, damaged = gather_from_ranks((self._newest_first(), self._damaged_before()), self.ranks)[0]
        for name in names:
            if damage := self._damage(self.folder / name):
                damaged.append(name)
                self._set_aside(name, damage)
                continue
            self._load(name, state.tensors())
            state.load_numbers(json.loads((self.folder / name / NUMBERS).read_text()))
            if self.ranks.rank == 0:
                log.info("resuming from checkpoint %s", name)
                self._point(LATEST, name)
            return True
        if damaged:
            raise ValueError(
                f"{self.folder}: none of {len(damaged)} checkpoints is whole ({', '.join(sorted(damaged))}), and "
                "training does not begin anew where it had come so far; put back a copy of one, or remove the folder "
                "to begin at step 0"
            )
        return False

    def load_best(self, state: TrainState) -> int | None:
        """Put the weights that validated best in place of the last ones, and in their running average.

        Returns their step. None, and the last ones stay, if no point of the curve was the best or its checkpoint is
        damaged.
        """
        name = gather_from_ranks(_read(self.folder / BEST), self.ranks)[0]
        if damage := self._damage(self.folder / name) if name else "no step has a validation score":
            if self.ranks.rank == 0:
                log.warning("the last weights are exported, not the best: %s", damage)
            return None
        self._load(name, {key: tensor for key, tensor in state.tensors().items() if key.startswith(WEIGHTS)})
        return int(name.removeprefix("step-"))

    def remove(self) -> None:
        """The run is over and its result is kept elsewhere."""
        self.wait()
        wait_for_ranks(self.ranks)
        if self.ranks.rank == 0:
            shutil.rmtree(self.folder)

    def _stage(self, tensors: dict[str, Tensor]) -> None:
        """Copy into memory that is kept from one checkpoint to the next (pinned, if the copy comes from a GPU)."""
        cuda = self.ranks.device.type == "cuda"
        if not self.staged:
            self.staged = _create_cpu_state_dict(tensors, pin_memory=cuda)
        copies = [local_part(self.staged[name]) for name in tensors]
        torch._foreach_copy_(copies, [local_part(tensor) for tensor in tensors.values()], non_blocking=True)
        if cuda:
            torch.cuda.synchronize()

    def _write(self, partial: Path, numbers: str, best: bool) -> None:
        """On a thread. Rank 0 makes the folder complete if all ranks could write their files."""
        written = self._write_tensors(partial)
        try:
            by_rank = gather_from_ranks(written, self.ranks, self.ranks.saving)
        except RuntimeError:  # a rank is lost; training finds that out, too, and says so
            return
        if self.ranks.rank != 0:
            return
        try:
            if failures := [failure for failure, _ in by_rank if failure]:
                raise OSError(failures[0])
            self._complete(partial, numbers, {name: sha for _, sums in by_rank for name, sha in sums.items()}, best)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            log.error("checkpoint %s could not be saved (%s); the one before it stays", partial.stem[1:], error)

    def _write_tensors(self, partial: Path) -> tuple[str, dict[str, str]]:
        """Why this rank could not write its files, or nothing; and the sum of each."""
        writer = dcp.FileSystemWriter(partial, single_file_per_rank=True, thread_count=1, sync_files=True)
        try:
            dcp.save(
                dict(self.staged),
                storage_writer=writer,
                process_group=self.ranks.saving,
                no_dist=self.ranks.world == 1,
            )
            return "", {file.name: _sha256(file) for file in partial.glob(f"__{self.ranks.rank}_*")}
        except (Exception, CheckpointException) as error:  # a full disk, a lost rank: training goes on
            return _reason(error), {}

    def _complete(self, partial: Path, numbers: str, sums: dict[str, str], best: bool) -> None:
        _write_text(partial / NUMBERS, numbers)
        for name in (".metadata", NUMBERS):
            sums[name] = _sha256(partial / name)
        _write_text(partial / SUMS, json.dumps(sums, indent=1, sort_keys=True))
        final = self.folder / partial.stem[1:]
        partial.rename(final)
        _flush(self.folder)
        for pointer in (LATEST, BEST) if best else (LATEST,):
            self._point(pointer, final.name)
        self._prune()

    def _point(self, pointer: str, name: str) -> None:
        _write_text(self.folder / f".{pointer}.new", name)
        (self.folder / f".{pointer}.new").rename(self.folder / pointer)

    def _load(self, name: str, tensors: dict[str, Tensor]) -> None:
        dcp.load(
            tensors,
            storage_reader=dcp.FileSystemReader(self.folder / name),
            process_group=self.ranks.control,
            no_dist=self.ranks.world == 1,
        )

    def _prune(self) -> None:
        names = self._newest_first()
        for name in {*names} - {*names[: self.keep], _read(self.folder / BEST)}:
            shutil.rmtree(self.folder / name)

    def _newest_first(self) -> list[str]:
        return sorted((path.name for path in self.folder.glob("step-*") if path.suffix != DAMAGED), reverse=True)

    def _damaged_before(self) -> list[str]:
        return [path.stem for path in self.folder.glob(f"step-*{DAMAGED}")]

    def _set_aside(self, name: str, damage: str) -> None:
        if self.ranks.rank == 0:
            aside = self.folder / f"{name}{DAMAGED}"
            log.warning("checkpoint %s is damaged (%s); set aside as %s", name, damage, aside.name)
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / name).rename(aside)

    def _refuse_if_not_shared(self) -> None:
        """Each rank would write its part on its own machine, and no checkpoint could ever be read: ValueError."""
        seen = self.folder / f".{gather_from_ranks(uuid.uuid4().hex, self.ranks)[0]}.seen"
        if self.ranks.rank == 0:
            seen.touch()
        wait_for_ranks(self.ranks)
        blind = [rank for rank, sees in enumerate(gather_from_ranks(seen.exists(), self.ranks)) if not sees]
        if self.ranks.rank == 0:
            seen.unlink()
        if blind:
            raise ValueError(
                f"{self.folder}: ranks {', '.join(map(str, blind))} do not see what rank 0 writes there; name a folder "
                "that all machines share by MEDSEG_CHECKPOINTS"
            )

    def _damage(self, path: Path) -> str:
        """What is wrong with a checkpoint, or nothing. The ranks share the reading."""
        try:
            sums = sorted(json.loads((path / SUMS).read_text()).items())
            share = sums[self.ranks.rank :: self.ranks.world]
            wrong = [f"{name}: checksum differs" for name, sha in share if _sha256(path / name) != sha]
        except (OSError, ValueError, AttributeError) as error:
            wrong = [_reason(error)]
        damages = [text for texts in gather_from_ranks(wrong, self.ranks) for text in texts]
        return damages[0] if damages else ""


def _refuse_if_others_write(folder: Path) -> None:
    """A checkpoint's index is a pickle, which runs what it says: raise ValueError if others could have put it there."""
    status = folder.stat()
    if status.st_mode & 0o022 or status.st_uid not in (os.geteuid(), 0):
        raise ValueError(
            f"{folder}: other users can write there (mode {status.st_mode & 0o777:o}, owner {status.st_uid}), and what "
            f"lies there is run; `chmod go-w {folder}`, or name another place by MEDSEG_CHECKPOINTS"
        )


def _reason(error: BaseException) -> str:
    """In a line; of what several ranks said, the first."""
    if isinstance(error, CheckpointException) and error.failures:
        rank, (first, _) = min(error.failures.items())
        return f"rank {rank}: {_reason(first)}"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _write_text(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
