"""Pretraining on any number of ranks, and fine-tuning that starts from it on shards."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from model import weights
from model.engine.parallelize import ParallelConfig
from model.weights_file import ENCODER
from tests import tolerances
from tests.model.engine.ranks import (
    CONFIG,
    STRUCTURE_VOXELS,
    VOXELS,
    Job,
    reported,
    results,
    run,
    same_loss,
    same_training,
    trained,
    untrained,
)
from tests.model.tasks.test_masked import new_network, save_encoder

SHORT = replace(CONFIG, steps=3, validate_every=3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(Job(tmp_path_factory.mktemp("alone"), config=SHORT, pretraining=True))


@pytest.mark.parametrize(("strategy", "block_by_block"), [("ddp", False), ("fsdp", True)])
def test_two_ranks_pretrain_as_one(tmp_path: Path, alone: Path, strategy: str, block_by_block: bool) -> None:
    parallel = ParallelConfig(strategy)
    job = Job(tmp_path, 2, 2, parallel, SHORT, pretraining=True, block_by_block=block_by_block)
    same_training(run(job), alone, job)
    same_loss(tmp_path, alone, job)
    norm = reported(alone)["gradient_norm"]
    bounds = {
        "validation_explained": tolerances.loss_parting(untrained(job), VOXELS, SHORT, norm),
        "probe_dice": tolerances.dice_of(STRUCTURE_VOXELS, tolerances.FLIPS_OF_THE_PROBE),
        "step": 0,
    }
    for one, other in zip(results(tmp_path)["numbers"]["curve"], results(alone)["numbers"]["curve"], strict=True):
        assert set(one) == set(other) >= {"validation_explained.CINE", "probe_dice.myocardium"}
        for name, value in one.items():
            tolerances.within(abs(value - other[name]), bounds[name.partition(".")[0]], name)


def test_shards_start_from_the_same_encoder_as_one_rank(tmp_path: Path) -> None:
    encoder = save_encoder(tmp_path / "encoder", new_network())
    config = replace(CONFIG, steps=1, learning_rate=1e-9, final_learning_rate=0.0, average_decay=0.0)
    parallel = ParallelConfig("fsdp")
    ours = trained(run(Job(tmp_path / "two", 2, 2, parallel, config, encoder=encoder)))
    pretrained = load_file(encoder / f"{ENCODER}.safetensors")
    assert pretrained.keys() == {name for name in ours if name.startswith(weights.PRETRAINED)}
    reach = tolerances.adamw_reach(tolerances.rates(config), config.beta2)
    for name, tensor in pretrained.items():
        may_differ = reach + 2 * tolerances.roundoff() * tensor.abs()  # one step rounds twice
        tolerances.within(((ours[name] - tensor).abs() / may_differ).max(), 1, name)
