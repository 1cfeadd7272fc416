"""Any number of ranks, any way of sharing the network: the same training. Real processes over gloo."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from model.engine import trainer
from model.engine.optim import LossScale
from model.engine.parallelize import ParallelConfig, choose_strategy
from model.engine.ranks import Ranks, outlast_hangs
from tests.model.engine.ranks import (
    CONFIG,
    STRUCTURE_VOXELS,
    VOXELS,
    Job,
    meet,
    reported,
    results,
    run,
    same_loss,
    same_training,
    train_and_save,
    trained,
    untrained,
)
from tests.tolerances import adamw_parting, dice_of, gradients, loss_parting, norm_parting, rates, within

MUON = replace(CONFIG, optimizer="muon", steps=2, validate_every=2)
CPU = torch.device("cpu")
GOLDEN = {"loss": 1.73952885, "gradient_norm": 1.83932352, "dice": 0.28697812}  # of five steps on one rank
MOVED = {  # in the mean of the elements
    "embedding.condition.weight": 9.195743e-05,
    "encoder.stages.1.downsample.weight": 9.540674e-05,
    "decoder.to_full.conv.weight": 8.782493e-05,
}
FIRST_SCALE = 0.75 * 2.0**24  # where it settles, gradients may grow by a third
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


def test_the_smallest_preset_learns_what_it_always_did(alone: Path) -> None:
    """On every processor: without AVX2, or with AVX-512, the loss was seen to differ by 1e-8, the movement by 1e-6."""
    network, found, norm = untrained(Job(alone)), reported(alone), GOLDEN["gradient_norm"]
    within(abs(found["loss"] - GOLDEN["loss"]), loss_parting(network, VOXELS, CONFIG, norm), "golden loss")
    within(abs(found["gradient_norm"] / norm - 1), norm_parting(network, VOXELS), "golden norm of the gradient")
    within(abs(found["validation_dice.mean"] - GOLDEN["dice"]), dice_of(STRUCTURE_VOXELS), "golden Dice")
    parting = sum(rates(CONFIG)) * adamw_parting(gradients(network, VOXELS))
    for name, parameter in network.named_parameters():
        if name in MOVED:
            movement = float((trained(alone)[name] - parameter.detach()).double().abs().mean())
            within(abs(movement - MOVED[name]), parting, f"golden movement of {name}")


@pytest.mark.parametrize("way", WAYS)
def test_loss_and_weights_after_five_steps_are_those_of_one_rank(tmp_path: Path, alone: Path, way: str) -> None:
    world, node, strategy, checkpointing = WAYS[way]
    parallel = ParallelConfig(strategy, checkpointing)
    job = Job(tmp_path, world, node, parallel, block_by_block=world == 4)
    folder = run(job)
    same_training(folder, alone, job)
    same_loss(folder, alone, job)
    ours, theirs = results(folder)["numbers"]["curve"][-1], results(alone)["numbers"]["curve"][-1]
    assert ours == pytest.approx(theirs, abs=dice_of(STRUCTURE_VOXELS))
    assert all(not results(folder, rank)["reported"] for rank in range(1, world))


@pytest.fixture(scope="module")
def muon_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(Job(tmp_path_factory.mktemp("muon"), config=MUON))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_muon_on_two_ranks_is_muon_on_one(tmp_path: Path, muon_alone: Path, strategy: str) -> None:
    """In the mean of the worst tensor by 0.016 of the bound; without an all-reduce, each matrix by 54 or more of it."""
    job = Job(tmp_path, 2, 2, ParallelConfig(strategy), MUON)
    same_training(run(job), muon_alone, job)


def test_one_rank_that_accumulates_equals_one_big_micro_batch(tmp_path: Path) -> None:
    cases = Job(tmp_path).cases[:4]  # of one source, so that they fit one batch
    big, small = Job(tmp_path / "big", micro_batch=4, cases=cases), Job(tmp_path, cases=cases)
    same_training(run(big), run(small), small)
    same_loss(big.folder, small.folder, small)


def test_float16_trains_on_shards_and_recovers_from_an_overflow(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=14, global_batch=2, precision="float16", learning_rate=1e-3)
    parallel = ParallelConfig("fsdp")
    folder = run(Job(tmp_path, 2, 2, parallel, config, block_by_block=True), overflowing)
    numbers = results(folder)["numbers"]
    assert 0 < len(numbers["skipped"]) < 9
    assert numbers["skipped"][:4] == [1, 2, 3, 4]
    assert numbers["skipped"][-1] < 9  # and none after the scale has settled
    assert numbers["updates"] == 14 - len(numbers["skipped"])
    assert numbers["loss_scale"] == FIRST_SCALE / 2 ** len(numbers["skipped"])
    assert all(tensor.isfinite().all() for tensor in trained(folder).values())


def overflowing(rank: int, job: Job) -> None:
    """A first loss scale whose gradients float16 cannot hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "LossScale", partial(LossScale, initial=FIRST_SCALE))
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


def waiting_for_stacks(rank: int, job: Job) -> None:
    meet(rank, job)
    init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    outlast_hangs(3600.0)
    groups = torch.distributed.distributed_c10d._world.pg_map
    backends = [group._get_backend(CPU) for group in groups]
    torch.save([backend.options._timeout.total_seconds() for backend in backends], job.folder / f"{rank}.pt")


def test_messages_of_every_group_wait_longer_than_a_rank_may_hang(tmp_path: Path) -> None:
    """Those of all ranks, control, saving, and of a mesh; else a hang would end in an error that shows no stack."""
    timeouts_s = torch.load(run(Job(tmp_path, 2, 1), waiting_for_stacks) / "0.pt")
    assert len(timeouts_s) >= 4
    assert min(timeouts_s) > 3600.0
