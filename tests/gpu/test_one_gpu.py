"""What only a GPU can show. One is enough; without one all of it is skipped.

python -m pytest tests/gpu -n 0 -o log_cli=true --log-cli-level=INFO       # bounds, and how near they were
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from model.certificate.launch_plan import LaunchPlan
from model.certificate.memory import memory
from model.certificate.simulate import build_network, fit_config, made_up_batch, made_up_run, simulate
from model.data.dataset import RawStream, SampleStream, finish
from model.engine.checkpoint import Checkpoints
from model.engine.dtensors import fill_shard, local_part
from model.engine.muon import orthogonal
from model.engine.numerics import set_numerics
from model.engine.parallelize import ParallelConfig, ParallelNetwork, materialise, parallelize, wrap_and_shard
from model.engine.progress import Report
from model.engine.ranks import Ranks
from model.engine.trainer import FitConfig, Run, accumulate, fit, new_state, update
from model.engine.watch import Watch
from model.network import depthwise
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from model.tasks.cast_weights import cast_once
from tests.model.engine.test_trainer import ALONE, CASES, FIT, STREAM, TASK
from tests.tolerances import agree, half_precision, interpolated, weights_agree, within

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and a PyTorch that is built with CUDA"),
    pytest.mark.filterwarnings("ignore"),  # the code generator's own deprecations
]

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ON_GPU = replace(ALONE, device=GPU)
VOXELS = FIT.global_batch * 16**3  # of a step
LABELS_THAT_DIFFER = 1e-4  # where two structures are equally near, rounding decides
MEMORY_TOLERANCE = 0.10
SAME_DIRECTION = 0.85  # cosine; two ways to bring singular values near to each other differ in how near
ROUNDINGS_OF_A_SUM = 4  # of the operands' sum in float32, and of the result


@pytest.fixture(autouse=True)
def numerics() -> Iterator[None]:
    """As comparisons want it: float32 products in float32, the same bits in every run. Then PyTorch's defaults."""
    set_numerics(GPU, deterministic=True)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = False, True


def on_meta() -> MedSegFormer:
    with torch.device("meta"):
        return MedSegFormer(PRESETS["nano"], num_classes=4)


def as_on_a_cpu(parameter: Tensor, std: float) -> None:
    """A GPU draws other numbers from the same seed."""
    whole = torch.empty(parameter.shape)
    fill_shard(whole, std)
    local_part(parameter.data).copy_(whole)  # one rank has all of it


def run_of(
    folder: Path, config: FitConfig, parallel: ParallelNetwork, ranks: Ranks, report: Report = lambda step, values: None
) -> Run:
    checkpoints, watch = Checkpoints(folder, ranks, every_s=0), Watch(folder, 0)
    return Run(parallel, TASK, SampleStream(CASES, STREAM), CASES[:1], config, ranks, report, checkpoints, watch)


def on_one_gpu(folder: Path, config: FitConfig, compiled: bool = False, **changes: Any) -> Run:
    parallel = parallelize(on_meta(), ParallelConfig("none", "selective", compiled), ON_GPU, config.precision)
    return run_of(folder, config, parallel, ON_GPU, **changes)


def trained(run: Run) -> dict[str, Tensor]:
    """The weights after a run, or after what is left of it."""
    return {name: tensor.cpu() for name, tensor in fit(run).final_weights().items()}


def gradient(folder: Path, config: FitConfig, parallel: ParallelNetwork, ranks: Ranks) -> Tensor:
    """Of the first step, whole and not scaled, on the CPU."""
    run = run_of(folder, config, parallel, ranks)
    state = new_state(parallel.network, config)
    batches = (run.stream[index].to(ranks.device) for index in range(run.accumulation))
    accumulate(run, state, batches)
    parts = [local_part(weight.grad).flatten() for weight in state.parameters if weight.grad is not None]
    return torch.cat(parts).float().cpu() / state.scale.value


@pytest.mark.parametrize("size", [(2, 5, 7, 9, 40), (1, 8, 16, 16, 512), (1, 3, 1, 2, 96), (1, 1, 1, 1, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_depthwise_kernels_are_the_convolution(size: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    batch, depth, height, width, channels = size
    volume = torch.randn(batch, channels, depth, height, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(channels, 1, 3, 3, 3, dtype=dtype, requires_grad=True)
    bias = torch.randn(channels, dtype=dtype, requires_grad=True)
    given, upstream = (volume, weight, bias), torch.randn_like(volume)
    exact = [each.detach().double().requires_grad_() for each in given]
    expected = F.conv3d(*exact, 1, 1, 1, channels)
    on_gpu = [each.detach().to(GPU).requires_grad_() for each in given]
    assert depthwise.is_needed(on_gpu[0])
    found = depthwise.convolve(*on_gpu)
    gradients = torch.autograd.grad(found, on_gpu, upstream.to(GPU))
    exact_gradients = torch.autograd.grad(expected, exact, upstream.double())
    for mine, other in zip((found, *gradients), (expected, *exact_gradients), strict=True):
        error = (mine.detach().cpu().double() - other.detach()).norm() / other.detach().norm()
        within(error, ROUNDINGS_OF_A_SUM * torch.finfo(dtype).eps, f"{dtype} {size}")


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 96, 32), (1, 256, 6912)])
def test_muons_direction_is_that_of_a_cpu(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    gradient = torch.randn(shape) * 0.9 ** torch.arange(shape[2])  # directions of very different size
    here, there = orthogonal(gradient), orthogonal(gradient.to(GPU)).float().cpu()
    assert there.isfinite().all()
    assert torch.cosine_similarity(here.flatten(1), there.flatten(1)).min() > SAME_DIRECTION


def test_a_patch_is_augmented_as_on_a_cpu() -> None:
    config = replace(STREAM, patch_size={"acdc": (24, 32, 24)})
    raw = RawStream(SampleStream(CASES[:4], config))[0]
    here, there = finish(raw, config), finish(raw.to(GPU), config).to(CPU)
    agree(there.image, here.image, interpolated(32), "image")
    within((there.target != here.target).float().mean(), LABELS_THAT_DIFFER, "labels that differ")


@torch.inference_mode()
def test_weights_cast_once_answer_with_the_bits_of_autocast() -> None:
    """Those of convolutions, too, which stay as they are on a CPU."""
    network = MedSegFormer(PRESETS["nano"], num_classes=3).requires_grad_(False).eval().to(GPU)
    cast = cast_once(network, torch.float16, GPU)
    scan = (torch.randn(1, 1, 32, 40, 24, device=GPU), torch.tensor([[1]], device=GPU), (1.0, 1.0, 1.0))
    with torch.autocast("cuda", torch.float16):
        assert torch.equal(cast(*scan), network(*scan))
    kinds = {module.weight.dtype for module in cast.modules() if isinstance(module, torch.nn.Conv3d)}
    assert kinds == {torch.float16}


def test_a_float16_step_on_shards_has_the_gradient_of_float32_on_a_cpu(tmp_path: Path) -> None:
    """Sharded over one rank: FSDP's copies, casts and streams need no second GPU."""
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1, device_id=GPU)
    try:
        network = on_meta()
        parallel = wrap_and_shard(network, "fsdp", ParallelConfig("fsdp", "selective"), ON_GPU, "float16")
        network.to_empty(device=GPU)
        torch.manual_seed(0)
        network.init_weights(as_on_a_cpu)
        found = gradient(tmp_path, replace(FIT, precision="float16"), parallel, ON_GPU)
    finally:
        dist.destroy_process_group()
    expected = gradient(tmp_path, FIT, parallelize(on_meta(), ParallelConfig(), ALONE), ALONE)
    within((found - expected).norm() / expected.norm(), half_precision(network, torch.float16), "gradient")


def test_a_run_that_stops_and_goes_on_is_equal_to_the_bit_with_the_switch(tmp_path: Path) -> None:
    config = replace(FIT, steps=6, precision="float16")
    whole = trained(on_one_gpu(tmp_path / "whole", config))

    class InterruptedRunError(Exception):
        pass

    def interrupt(step: int, _values: dict[str, float]) -> None:
        if step == 4:
            raise InterruptedRunError

    halves = on_one_gpu(tmp_path / "halves", config, report=interrupt)
    with pytest.raises(InterruptedRunError):
        fit(halves)
    halves.checkpoints.wait()
    rest = trained(on_one_gpu(tmp_path / "halves", config))
    assert all(torch.equal(rest[name], tensor) for name, tensor in whole.items())


def test_generated_kernels_train_as_eager_ones(tmp_path: Path) -> None:
    config = replace(FIT, steps=2, learning_rate=5e-5)
    eager = trained(on_one_gpu(tmp_path / "eager", config))
    compiled = trained(on_one_gpu(tmp_path / "compiled", config, compiled=True))
    network = on_meta()
    materialise(network, CPU, seed=0)
    weights_agree(compiled, eager, network, config, VOXELS)


def test_the_predicted_peak_of_memory_is_what_a_step_takes() -> None:
    plan = LaunchPlan(
        PRESETS["small"], classes=4, channels=2, patch=(96, 96, 96), ranks=1, group=1, strategy="none",
        checkpointing="selective", micro_batch=2, global_batch=2,
    )  # fmt: skip
    nothing: Any = None
    with torch.device("meta"):
        network = build_network(plan)
    parallel = parallelize(network, ParallelConfig("none", plan.checkpointing), ON_GPU, plan.precision)
    run = replace(made_up_run(nothing, plan, fit_config(plan, 1), ON_GPU), parallel=parallel)
    state, batch = new_state(network, run.config), made_up_batch(plan).to(GPU)
    for _ in range(2):  # the first makes the optimizer's state and cuDNN's choices
        torch.cuda.reset_peak_memory_stats(GPU)
        accumulate(run, state, iter([batch]))
        update(state, run.config.clip_norm)
    predicted, measured = memory(simulate(plan, 80e9)).peak_bytes, torch.cuda.max_memory_allocated(GPU)
    within(abs(measured / predicted - 1), MEMORY_TOLERANCE, f"peak: {predicted} bytes predicted, {measured} measured")
