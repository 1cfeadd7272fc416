"""Several ranks compute the gradient of one big batch: real processes over gloo, in float32."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from model.dataset import SampleStream, loader
from model.trainer import Ranks, accumulate, fit, micro_batches, micro_steps
from tests.model.test_trainer import ALONE, CASES, FIT, STREAM, new_network, off

CONFIG = replace(FIT, steps=2, global_batch=4, micro_batch=1, average_decay=0.0)


def gradient(ranks: Ranks) -> tuple[list[torch.Tensor], float]:
    """Of the first step. Its micro-batches are of different sources, so an error in weighting would show."""
    network, steps = new_network(), micro_steps(CONFIG, ranks.world)
    stream = SampleStream(CASES, replace(STREAM, micro_batch=1))
    loss = accumulate(network, iter(loader(stream, micro_batches(1, steps, ranks), 0)), steps, CONFIG, ranks, off())
    return [p.grad for p in network.parameters() if p.grad is not None], loss


def work(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=world)
    ranks = Ranks(rank, world, torch.device("cpu"))
    gradients, loss = gradient(ranks)
    network, told = new_network(), []
    fit(
        network, SampleStream(CASES, replace(STREAM, micro_batch=1)), [], CONFIG, ranks, lambda *step: told.append(step)
    )
    result = {"gradients": gradients, "loss": loss, "weights": network.state_dict(), "reports": len(told)}
    torch.save(result, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_agree_with_one_another_and_with_a_single_rank(tmp_path: Path, world: int) -> None:
    mp.start_processes(work, (world, tmp_path), nprocs=world, start_method="spawn")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    gradients, loss = gradient(ALONE)
    assert found[0]["loss"] == pytest.approx(loss, abs=1e-6)
    for ours, alone in zip(found[0]["gradients"], gradients, strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-3, atol=1e-6)
    for other in found[1:]:  # and stay equal to the bit through optimiser steps
        assert all(torch.equal(other["weights"][name], found[0]["weights"][name]) for name in other["weights"])
    assert [each["reports"] > 0 for each in found] == [True] + [False] * (world - 1)
