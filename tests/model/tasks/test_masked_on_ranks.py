"""Pretraining on any number of ranks, and fine-tuning that starts from it on shards."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model import weights
from model.engine.parallelize import ParallelConfig
from model.weights import ENCODER
from tests.model.engine.ranks import CONFIG, Job, results, run
from tests.model.tasks.test_masked import new_network, save_encoder

SHORT = replace(CONFIG, steps=3, validate_every=3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(Job(tmp_path_factory.mktemp("alone"), config=SHORT, pretraining=True))


@pytest.mark.parametrize(("strategy", "block_by_block"), [("ddp", False), ("fsdp", True)])
def test_two_ranks_pretrain_as_one(tmp_path: Path, alone: Path, strategy: str, block_by_block: bool) -> None:
    parallel = ParallelConfig(strategy)
    job = Job(tmp_path, 2, 2, parallel, SHORT, pretraining=True, block_by_block=block_by_block)
    ours, theirs = load_file(run(job) / "model.safetensors"), load_file(alone / "model.safetensors")
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    for one, other in zip(results(tmp_path)["numbers"]["curve"], results(alone)["numbers"]["curve"], strict=True):
        assert set(one) == set(other) >= {"validation_explained.CINE", "probe_dice.myocardium"}
        assert one == pytest.approx(other, abs=2e-2)  # a probe decides by argmax
    explained = [
        [point["validation_explained.mean"] for point in results(f)["numbers"]["curve"]] for f in (tmp_path, alone)
    ]
    assert explained[0] == pytest.approx(explained[1], abs=1e-4)


def test_shards_start_from_the_same_encoder_as_one_rank(tmp_path: Path) -> None:
    encoder = save_encoder(tmp_path / "encoder", new_network())
    config = replace(CONFIG, steps=1, learning_rate=1e-9, final_learning_rate=0.0, average_decay=0.0)
    parallel = ParallelConfig("fsdp")
    ours = load_file(run(Job(tmp_path / "two", 2, 2, parallel, config, encoder=encoder)) / "model.safetensors")
    pretrained = load_file(encoder / f"{ENCODER}.safetensors")
    assert pretrained.keys() == {name for name in ours if name.startswith(weights.PRETRAINED)}
    for name, tensor in pretrained.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)
