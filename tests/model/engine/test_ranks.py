"""Any number of ranks, any way of sharing the network: the same training. Real processes over gloo."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.engine import trainer
from model.engine.optim import LossScale
from model.engine.parallelize import ParallelConfig, choose_strategy
from model.engine.ranks import Ranks
from tests.model.engine.ranks import CONFIG, Job, results, run, train_and_save

CPU = torch.device("cpu")
FIRST_SCALE = 2.0**24
WAYS = {  # world, ranks to a node, strategy, checkpointing
    "2 ranks, ddp": (2, 2, "ddp", "none"),
    "2 ranks, fsdp": (2, 2, "fsdp", "none"),
    "2 ranks, fsdp, activations recomputed": (2, 2, "fsdp", "full"),
    "4 ranks, fsdp": (4, 4, "fsdp", "none"),
    "4 ranks, hsdp 2 x 2": (4, 2, "hsdp", "selective"),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank that accumulates the four micro-batches of a step."""
    return run(Job(tmp_path_factory.mktemp("alone")))


@pytest.mark.parametrize("way", WAYS)
def test_loss_and_weights_after_five_steps_are_those_of_one_rank(tmp_path: Path, alone: Path, way: str) -> None:
    world, node, strategy, checkpointing = WAYS[way]
    parallel = ParallelConfig(strategy, checkpointing)
    folder = run(Job(tmp_path, world, node, parallel, block_by_block=world == 4))
    losses = [values["loss"] for _, values in results(folder)["reported"] if "loss" in values]
    expected = [values["loss"] for _, values in results(alone)["reported"] if "loss" in values]
    assert losses[-1] == pytest.approx(expected[-1], abs=1e-5)
    ours, theirs = load_file(folder / "model.safetensors"), load_file(alone / "model.safetensors")
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert results(folder)["numbers"]["curve"][-1] == pytest.approx(results(alone)["numbers"]["curve"][-1], abs=1e-3)
    assert all(not results(folder, rank)["reported"] for rank in range(1, world))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_muon_on_two_ranks_is_muon_on_one(tmp_path: Path, strategy: str) -> None:
    config = replace(CONFIG, optimizer="muon", steps=2, validate_every=2)
    one = run(Job(tmp_path / "one", config=config))
    two = run(Job(tmp_path / "two", 2, 2, ParallelConfig(strategy), config))
    ours, theirs = load_file(two / "model.safetensors"), load_file(one / "model.safetensors")
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5)


def test_one_rank_that_accumulates_equals_one_big_micro_batch(tmp_path: Path, alone: Path) -> None:
    big = run(Job(tmp_path / "big", micro_batch=4, cases=Job(tmp_path).cases[:4]))
    small = run(Job(tmp_path / "small", cases=Job(tmp_path).cases[:4]))
    ours, theirs = load_file(big / "model.safetensors"), load_file(small / "model.safetensors")
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5)


def test_float16_trains_on_shards_and_recovers_from_an_overflow(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=14, precision="float16", learning_rate=1e-3)
    parallel = ParallelConfig("fsdp")
    folder = run(Job(tmp_path, 2, 2, parallel, config, block_by_block=True), overflowing)
    numbers = results(folder)["numbers"]
    assert 0 < len(numbers["skipped"]) < 9
    assert numbers["skipped"] == list(range(1, len(numbers["skipped"]) + 1))  # and none after the scale has settled
    assert numbers["updates"] == 14 - len(numbers["skipped"])
    assert numbers["loss_scale"] == FIRST_SCALE / 2 ** len(numbers["skipped"])
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "model.safetensors").values())


def overflowing(rank: int, job: Job) -> None:
    """A first loss scale whose gradients float16 cannot hold."""
    trainer.LossScale = partial(LossScale, initial=FIRST_SCALE)  # type: ignore[misc, assignment]
    train_and_save(rank, job)


@pytest.mark.parametrize(
    ("parameters", "world", "node", "expected"),
    [(4_000_000, 1, 1, "none"), (4_000_000, 2, 2, "ddp"), (10**12, 8, 8, "fsdp"), (10**12, 8, 4, "fsdp")],
)
def test_auto_replicates_what_fits_and_shards_the_rest(parameters: int, world: int, node: int, expected: str) -> None:
    assert choose_strategy("auto", parameters, Ranks(0, world, CPU, node)) == expected


def test_auto_shards_within_a_node_what_fits_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.engine.parallelize.memory_bytes", lambda ranks: 80e9)
    assert choose_strategy("auto", 6_700_000_000, Ranks(0, 32, CPU, 8)) == "hsdp"


def test_hsdp_on_one_node_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.strategy hsdp .* 4 ranks with 4 on this node; use fsdp"):
        choose_strategy("hsdp", 10, Ranks(0, 4, CPU, 4))
