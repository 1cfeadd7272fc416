"""Checkpoints on real ranks: they go on on any number of ranks, and what can happen to them is survived."""

import math
import os
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.engine.checkpoint import Checkpoints
from model.engine.parallelize import ParallelConfig
from model.engine.trainer import fit
from model.tasks.segmentation import Segmentation
from tests.model.engine.ranks import CONFIG, STRUCTURE_VOXELS, Job, meet, results, run, same_training, train
from tests.model.engine.test_trainer import ALONE, CASES, FIT, run_of
from tests.model.engine.test_trainer import train as train_alone
from tests.tolerances import dice_of

LONGER = replace(CONFIG, steps=6, validate_every=2)
SHARDED = ParallelConfig("fsdp")


def scores(folder: Path) -> list[float]:
    return [point["validation_dice.mean"] for point in results(folder)["numbers"]["curve"]]


def stopping(rank: int, job: Job) -> None:
    """Rank 0 asks itself to stop, as a batch system does, after the point of step 4."""
    ranks = meet(rank, job)

    def stop(step: int, _values: dict[str, float]) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGUSR1)

    state, reported = train(job, ranks, stop)
    torch.save({"reported": reported, "numbers": state.numbers()}, job.folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(Job(tmp_path_factory.mktemp("whole"), 2, 2, SHARDED, LONGER))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of the same run, stopped on two sharded ranks. The message to stop is seen at the next step: nothing
    is lost."""
    folder = tmp_path_factory.mktemp("first")
    kept = folder / "kept"
    run(Job(folder, 2, 2, SHARDED, LONGER, checkpoints=kept), stopping)
    assert results(folder)["numbers"]["step"] == 5
    assert (kept / "latest").read_text() == "step-0000005"
    return kept


@pytest.mark.parametrize(
    ("world", "node", "strategy"), [pytest.param(1, 1, "auto", marks=pytest.mark.slow), (2, 2, "ddp"), (4, 2, "hsdp")]
)
def test_a_run_stopped_by_sigusr1_goes_on_on_another_number_of_ranks(
    tmp_path: Path, whole: Path, stopped: Path, world: int, node: int, strategy: str
) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(stopped, kept)
    job = Job(tmp_path / "rest", world, node, ParallelConfig(strategy), LONGER, checkpoints=kept)
    rest = run(job)
    assert scores(rest) == pytest.approx(scores(whole), abs=dice_of(STRUCTURE_VOXELS))
    assert results(rest)["reported"][-1][1]["validation_dice.mean"] == scores(rest)[-1]
    same_training(rest, whole, job)


def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_it_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="model.engine.checkpoint")
    folder = tmp_path / "run"
    whole = train_alone(folder, replace(FIT, steps=4, validate_every=100))
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-0000003", "step-0000004"]
    damaged = flip_a_bit(folder / "step-0000004")
    again = train_alone(folder, replace(FIT, steps=4, validate_every=100))
    told = f"checkpoint step-0000004 is damaged ({damaged.name}: checksum differs); set aside as step-0000004.damaged"
    assert told in caplog.text
    assert "resuming from checkpoint step-0000003" in caplog.text
    assert again.step == 4
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in whole.tensors().items())
    assert sorted(path.name for path in folder.glob("step-*")) == [
        "step-0000003",
        "step-0000004",
        "step-0000004.damaged",
    ]


def flip_a_bit(checkpoint: Path) -> Path:
    """Of its tensors; the file."""
    damaged = next(checkpoint.glob("__0_*"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    return damaged


def test_training_does_not_begin_anew_where_no_checkpoint_is_whole(tmp_path: Path) -> None:
    """Not at the second try either; only when the folder is gone, or one of them is whole again."""
    train_alone(tmp_path, replace(FIT, steps=6, validate_every=100))
    for step in (5, 6):
        flip_a_bit(tmp_path / f"step-000000{step}")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"none of 2 checkpoints is whole \(step-0000005, step-0000006\)"):
            train_alone(tmp_path, replace(FIT, steps=6, validate_every=100))
    flip_a_bit(tmp_path / "step-0000005.damaged")
    (tmp_path / "step-0000005.damaged").rename(tmp_path / "step-0000005")
    assert train_alone(tmp_path, replace(FIT, steps=8, validate_every=100)).step == 8
    whole = [path.name for path in tmp_path.glob("step-*") if path.suffix != ".damaged"]
    assert sorted(whole) == ["step-0000007", "step-0000008"]
    assert (tmp_path / "latest").read_text() == "step-0000008"


def in_folders_of_their_own(rank: int, job: Job) -> None:
    ranks = meet(rank, job)
    with pytest.raises(ValueError, match="ranks 1 do not see what rank 0 writes there; name a folder that all"):
        Checkpoints(job.folder / f"machine-{rank}", ranks)


def test_a_folder_that_the_machines_do_not_share_is_refused_at_the_start(tmp_path: Path) -> None:
    run(Job(tmp_path, 2, 1), in_folders_of_their_own)


def test_a_checkpoint_without_its_checksums_is_not_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The index is a pickle: it is never opened unless its checksum is right."""
    folder = tmp_path / "run"
    train_alone(folder, replace(FIT, steps=2, validate_every=100))
    for path in folder.glob("step-*"):
        (path / "checksums.json").unlink()
        (path / ".metadata").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    with pytest.raises(ValueError, match="none of 2 checkpoints is whole"):
        train_alone(folder, replace(FIT, steps=2, validate_every=100))
    assert caplog.text.count("is damaged") == 2
    assert not Path("/tmp/never").exists()


def filling_the_disk(rank: int, job: Job) -> None:
    """From step 4 on, rank 1 can write no file above 64 KiB: the system refuses as it does when a disk is full."""

    def fill(step: int, _values: dict[str, float]) -> None:
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))

    ranks = meet(rank, job)
    state, reported = train(job, ranks, fill)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    torch.save({"reported": reported, "numbers": state.numbers()}, job.folder / f"{rank}.pt")


def test_a_full_disk_leaves_the_checkpoint_before_and_training_goes_on(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    job = Job(tmp_path / "run", 2, 2, SHARDED, LONGER, checkpoints=kept, every_s=0)
    run(job, filling_the_disk)
    assert results(job.folder)["numbers"]["step"] == 6
    assert (kept / "latest").read_text() in ("step-0000002", "step-0000003")  # the last may be in the making
    assert not list(kept.glob(".*"))
    rest = run(Job(tmp_path / "rest", 2, 2, SHARDED, LONGER, checkpoints=kept))
    assert results(rest)["numbers"]["step"] == 6


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    """What lies there is unpickled."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(ValueError, match=r"other users can write there .mode 777"):
        Checkpoints(tmp_path / "run", ALONE)
    Checkpoints(tmp_path / "new", ALONE)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-0000009.partial").mkdir()
    (tmp_path / ".step-0000009.partial" / "__0_0.distcp").write_text("half")
    train_alone(tmp_path, replace(FIT, steps=1, warmup_steps=0))
    assert not list(tmp_path.glob(".*"))


BEST = replace(FIT, steps=8, validate_every=1, export="best")


def test_the_newest_two_checkpoints_are_kept_and_the_best_if_it_is_exported(tmp_path: Path) -> None:
    state = train_alone(tmp_path / "best", BEST, validation=Job(tmp_path).cases[:2])
    best = max(state.curve, key=lambda point: point["validation_dice.mean"])
    assert (tmp_path / "best" / "best").read_text() == f"step-{int(best['step']):07d}"
    kept = {path.name for path in (tmp_path / "best").glob("step-*")}
    assert kept == {"step-0000007", "step-0000008", (tmp_path / "best" / "best").read_text()}
    train_alone(tmp_path / "last", replace(BEST, export="last"), validation=Job(tmp_path).cases[:2])
    assert {path.name for path in (tmp_path / "last").glob("*")} >= {"step-0000007", "step-0000008"}
    assert not (tmp_path / "last" / "best").exists()


def test_the_best_weights_are_those_of_a_run_that_ended_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that average over steps. A first point without a score (NaN) is not the best, nor in the way."""
    dice = iter([math.nan, 0.4, 0.7, 0.7, 0.2, math.nan])
    monkeypatch.setattr(Segmentation, "score", lambda *_: [{"validation_dice.liver": next(dice)}])
    config = replace(BEST, steps=6, schedule="trapezoid", average_decay=0.9)
    constant = replace(config, learning_rate=1e-3, final_learning_rate=1e-3, warmup_steps=0)
    run = run_of(tmp_path / "long", constant, validation=CASES[:1])
    state = fit(run)
    last = {name: tensor.clone() for name, tensor in state.final_weights().items()}
    assert run.checkpoints.load_best(state) == 3
    monkeypatch.undo()
    ended = train_alone(tmp_path / "short", replace(constant, steps=3, export="last", validate_every=100))
    assert all(torch.equal(tensor, ended.final_weights()[name]) for name, tensor in state.final_weights().items())
    assert not all(torch.equal(tensor, last[name]) for name, tensor in state.final_weights().items())


def test_without_a_best_checkpoint_the_last_weights_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = run_of(tmp_path, replace(BEST, steps=2), validation=[])
    assert run.checkpoints.load_best(fit(run)) is None
    assert "the last weights are exported, not the best: no step has a validation score" in caplog.text
