"""What the certificate predicts of weights, gradients and optimizer state, against real ranks over gloo."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.certificate.launch_plan import LaunchPlan
from model.certificate.simulate import fit_config, made_up_batch, made_up_run, simulate
from model.engine.dtensors import local_part
from model.engine.parallelize import ParallelConfig, parallelize
from model.engine.trainer import accumulate, new_state, update
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from tests.model.engine.ranks import Job, meet, run

WEIGHTS, GRADIENTS, OPTIMIZER = "weights", "gradients", "optimizer"


def plan(preset: str, world: int) -> LaunchPlan:
    return LaunchPlan(
        network=PRESETS[preset], classes=3, channels=1, patch=(16, 16, 16), ranks=world, group=world,
        strategy="fsdp" if world > 1 else "none", checkpointing="none", micro_batch=1, global_batch=world,
        precision="float32",
    )  # fmt: skip


def measure(rank: int, job: Job) -> None:
    """A whole real step of this rank, and what it then holds."""
    ranks = meet(rank, job)
    wanted = plan((job.folder / "preset").read_text(), job.world)
    with torch.device("meta"):
        network = MedSegFormer(wanted.network, wanted.classes)
    parallel = parallelize(network, ParallelConfig(job.parallel.strategy), ranks)
    fit = fit_config(wanted, 1)
    state = new_state(parallel.network, fit)
    accumulate(made_up_run(parallel, wanted, fit, ranks), state, iter([made_up_batch(wanted)]))
    parameters = list(parallel.network.parameters())
    held = {WEIGHTS: held_bytes(parameters)}
    held[GRADIENTS] = held_bytes(parameter.grad for parameter in parameters if parameter.grad is not None)
    update(state, fit.clip_norm)
    held[OPTIMIZER] = held_bytes(
        tensor for moments in state.optimizers[0].state.values() for tensor in moments.values()
    )
    (job.folder / f"{rank}.json").write_text(json.dumps(held))


def held_bytes(tensors: Iterable[Tensor]) -> int:
    storages = {(storage := local_part(each).untyped_storage()).data_ptr(): storage.nbytes() for each in tensors}
    return sum(storages.values())


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("preset", ["nano", "tiny"])
def test_weights_gradients_and_optimizer_are_what_real_ranks_hold(tmp_path: Path, preset: str, world: int) -> None:
    """To 2 %, each of them and all together, on every rank."""
    (tmp_path / "preset").write_text(preset)
    run(Job(tmp_path, world, world, ParallelConfig("fsdp" if world > 1 else "auto")), measure)
    record = simulate(plan(preset, world), 1e12)
    for rank in range(world):
        held = json.loads((tmp_path / f"{rank}.json").read_text())
        predicted = {name: sum(each.size for each in record.allocations if each.kind == name) for name in held}
        assert sum(predicted.values()) == pytest.approx(sum(held.values()), rel=0.02)
        assert predicted == pytest.approx(held, rel=0.02)
