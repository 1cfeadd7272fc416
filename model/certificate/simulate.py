"""A training step of one rank among many, on tensors without data and ranks that do not exist.

    record = simulate(plan, memory_bytes=80e9).record

The network, the loss, the sharding, the accumulation and the optimizer's step are the training's own functions. Only
what they run on is pretended: `FakeTensorMode` gives shapes without data, PyTorch's `fake` backend answers for the
other ranks, and `gpu.py` lets a CPU's tensors go a GPU's way. Two micro-steps, the first of which keeps its gradients
back, and an update; the optimizer's state exists from the start, as it does from the second step on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from model.certificate.fusion import never_written
from model.certificate.gpu import as_gpu
from model.certificate.launch_plan import LaunchPlan
from model.certificate.operations import StepRecord
from model.certificate.record import LOSS, Recorder, module_name
from model.data.dataset import Batch, SampleStream, StreamConfig
from model.data.draws import AugmentConfig
from model.data.targets import Targets
from model.engine.parallelize import ParallelConfig, ParallelNetwork, materialise, wrap_and_shard
from model.engine.ranks import Ranks
from model.engine.state import TrainState
from model.engine.task import TrainingTask
from model.engine.trainer import FitConfig, Run, accumulate, new_state, update
from model.network.layers import BlockNetwork
from model.network.medsegformer import MedSegFormer
from model.tasks.masked import MaskedAutoencoder, MaskedModelling
from model.tasks.segmentation import Segmentation

CPU = torch.device("cpu")
MICRO_STEPS = 2  # simulated; those between the first and the last are like the first


def simulate(plan: LaunchPlan, memory_bytes: float) -> StepRecord:
    """What one rank allocates, computes and sends in a step. `memory_bytes` is what the sharding believes to have."""
    count = min(MICRO_STEPS, plan.accumulation)
    ranks = Ranks(0, plan.ranks, CPU, plan.group)
    with torch.device("meta"):
        network = build_network(plan)
    config = ParallelConfig(plan.strategy, plan.checkpointing)
    with pretended_ranks(plan.ranks), as_gpu(memory_bytes), Recorder() as recorder:
        # Not in fake mode: the mesh needs real numbers.
        parallel = wrap_and_shard(network, plan.strategy, config, ranks, plan.precision)
        with FakeTensorMode(allow_non_fake_inputs=True):
            materialise(network, CPU, seed=0)
            if plan.strategy == "ddp":
                parallel = replace(parallel, wrapper=replicated(network))
            recorder.record.compiled = compiled_modules(network) if plan.compile else frozenset()
            run = made_up_run(parallel, plan, fit_config(plan, count), ranks)
            simulated_step(run, prepared(run, recorder), plan, recorder)
    return without_registers(recorder.record)


def without_registers(record: StepRecord) -> StepRecord:
    """Without the allocations that kernels of a compiled graph never make."""
    gone: set[int] = set()
    for operations in record.stretches():
        gone |= never_written(operations, record.compiled)
    living = [allocation for allocation in record.allocations if allocation.kind or allocation.number not in gone]
    return replace(record, allocations=living)


def build_network(plan: LaunchPlan) -> MedSegFormer | MaskedAutoencoder:
    """The network of the plan's stage, where the caller wants it."""
    return MaskedAutoencoder(plan.network) if plan.stage == "pretrain" else MedSegFormer(plan.network, plan.classes)


def compiled_modules(network: BlockNetwork) -> frozenset[str]:
    """By name, as the recorder knows them: what `parallelize` compiles where parameters say `compile`."""
    compiled = {*network.blocks(), *network.full_resolution()}
    return frozenset({LOSS, *(module_name(name) for name, module in network.named_modules() if module in compiled)})


def made_up_task(plan: LaunchPlan) -> TrainingTask:
    """What is learnt, on made-up batches. How much is hidden changes neither memory nor time."""
    stream = stream_config(plan)
    if plan.stage == "pretrain":
        return MaskedModelling(stream, mask_stride=16, mask_fraction=0.5)
    return Segmentation(stream)


def stream_config(plan: LaunchPlan) -> StreamConfig:
    """Of patches that are not drawn but made up."""
    return StreamConfig(
        classes=(), structures={}, patch_size={}, micro_batch=plan.micro_batch, seed=0,
        foreground_fraction=0.0, source_balance=0.0, augment=AugmentConfig(),
    )  # fmt: skip


def made_up_run(parallel: ParallelNetwork, plan: LaunchPlan, config: FitConfig, ranks: Ranks) -> Run:
    """What a step takes of a run; nothing is loaded, reported or saved."""
    nothing: Any = None
    return Run(
        parallel=parallel, task=made_up_task(plan), stream=SampleStream((), stream_config(plan)), validation=(),
        config=config, ranks=ranks, report=nothing, checkpoints=nothing, watch=nothing,
    )  # fmt: skip


def prepared(run: Run, recorder: Recorder) -> TrainState:
    """The training's state, complete from the start; the recorder knows what is what."""
    network = run.parallel.network
    recorder.follow(network)
    state = new_state(network, run.config)
    run.parallel.called.train()
    recorder.label("optimizer", state.tensors().values())
    recorder.label("weights", network.parameters())
    return state


def simulated_step(run: Run, state: TrainState, plan: LaunchPlan, recorder: Recorder) -> None:
    """The training's own step, each part of it marked."""
    feed = marked(made_up_batch(plan), run.accumulation, recorder)
    accumulate(run, state, feed)
    parameters = run.parallel.network.parameters()
    recorder.label("gradients", [parameter.grad for parameter in parameters if parameter.grad is not None])
    recorder.mark("update")
    update(state, run.config.clip_norm)


def marked(batch: Batch, count: int, recorder: Recorder) -> Iterator[Batch]:
    for number in range(1, count + 1):
        recorder.mark(f"micro-step {number}")
        yield batch


def made_up_batch(plan: LaunchPlan) -> Batch:
    """Some class is unannotated, as in every batch of a partially labelled cohort: the loss then costs most."""
    size, count = plan.patch, plan.micro_batch
    return Batch(
        image=torch.zeros(count, plan.channels, *size),
        modality=torch.ones(count, plan.channels, dtype=torch.long),
        target=torch.zeros(count, *size, dtype=torch.long),
        targets=(Targets(((0, plan.classes - 1), *((index,) for index in range(1, plan.classes - 1))), ()),) * count,
        spacing_mm=plan.spacing_mm,
        cases=("",) * count,
    )


def fit_config(plan: LaunchPlan, count: int) -> FitConfig:
    """What of the training's settings changes memory or time; the others as a run might have them."""
    return FitConfig(
        steps=1, global_batch=count * plan.micro_batch * plan.ranks, optimizer=plan.optimizer,
        learning_rate=1e-4, final_learning_rate=0.0, schedule="cosine", warmup_steps=0,
        beta2=0.99, weight_decay=0.1, clip_norm=1.0, precision=plan.precision, validate_every=1,
        average_decay=0.999 if plan.averaged else 0.0,
    )  # fmt: skip


@contextmanager
def pretended_ranks(world: int) -> Iterator[None]:
    """This process is rank 0; PyTorch's `fake` backend takes every message and sends none."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


def replicated(network: nn.Module) -> DistributedDataParallel:
    """DDP without its first meeting, which compares real numbers; its messages through a hook that can be watched."""
    wrapped = DistributedDataParallel(network, init_sync=False)
    wrapped.register_comm_hook(None, _average)
    return wrapped


def _average(_state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    dist.all_reduce(bucket.buffer())
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done
