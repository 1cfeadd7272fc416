"""The launch certificate against the truth: what is predicted from tensors without data is what real ones do."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import conv3d
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from model.certificate import document
from model.certificate.document import Launch
from model.certificate.estimate import estimate
from model.certificate.flops import COUNTS
from model.certificate.gpu import as_gpu
from model.certificate.launch_plan import LaunchPlan
from model.certificate.memory import CATEGORIES, categorise, forward_ends, memory
from model.certificate.occupancy import occupancy
from model.certificate.operations import Operation, Products, StepRecord
from model.certificate.record import Recorder
from model.certificate.simulate import (
    CPU,
    build_network,
    fit_config,
    made_up_batch,
    made_up_run,
    made_up_task,
    simulate,
)
from model.certificate.timing import PLANNED, SHORTEST_S, timing
from model.engine.hardware import described, find_gpu
from model.engine.parallelize import ParallelNetwork, autocast, checkpoint_activations
from model.engine.ranks import Ranks
from model.engine.trainer import accumulate, new_state
from model.network import cpu_convolution
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer

A100 = find_gpu("a100-80gb")
ALONE = LaunchPlan(
    network=PRESETS["nano"], classes=4, channels=2, patch=(32, 32, 32), ranks=1, group=1, strategy="none",
    checkpointing="none", micro_batch=1, global_batch=1, precision="float32",
)  # fmt: skip
SHARDED = replace(ALONE, ranks=4, group=2, strategy="hsdp", global_batch=16, precision="float16")


def real_network(plan: LaunchPlan) -> Any:
    torch.manual_seed(0)
    network = build_network(plan).train()
    checkpoint_activations(network, plan.checkpointing)
    return network


@pytest.mark.parametrize(
    ("preset", "precision", "stage"),
    [
        ("nano", "float32", "train"),
        ("nano", "bfloat16", "train"),
        ("tiny", "float32", "train"),
        ("nano", "bfloat16", "pretrain"),
    ],
)
def test_activations_are_those_that_a_real_forward_pass_saves(preset: str, precision: str, stage: str) -> None:
    """To 5 %, the outputs included, which live though nothing saves them. Under CUDA's autocast rules, too, which
    `as_gpu` gives real tensors as well."""
    plan = replace(ALONE, network=PRESETS[preset], precision=precision, stage=stage)
    network, patches = real_network(plan), made_up_batch(plan)
    known = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    known |= {each.untyped_storage().data_ptr() for each in (patches.image, patches.target, patches.modality)}
    saved: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no storage is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with as_gpu(0), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with autocast(CPU, precision):
            outputs = made_up_task(plan).forward(network, patches)
        made_up_task(plan).loss(outputs, patches)
    for output in tree_leaves(outputs):
        pack(output)
    assert predicted(simulate(plan, 0)) == pytest.approx(sum(saved.values()), rel=0.05)


def predicted(record: StepRecord) -> int:
    """Activations at the end of the first forward pass, without the batch itself."""
    start, end = record.marks[0][1], forward_ends(record)[0]
    return sum(
        allocation.size
        for allocation in record.allocations
        if start <= allocation.born < end and categorise(allocation, [end]) == "activations"
    )


@pytest.mark.parametrize(("checkpointing", "stage"), [("none", "train"), ("full", "train"), ("none", "pretrain")])
def test_flops_are_those_that_pytorch_counts_in_a_real_step(
    checkpointing: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_convolution, "is_needed", lambda _volume: False)  # as on a GPU, which is what is simulated
    plan = replace(ALONE, checkpointing=checkpointing, stage=stage)
    network = real_network(plan)
    with FlopCounterMode(display=False, custom_mapping=COUNTS) as counter:
        step_for_real(network, plan)
    assert sum(operation.flops for operation in simulate(plan, 0).operations) == counter.get_total_flops()


def test_flops_of_a_convolution_backward_are_twice_its_forward_whatever_its_groups() -> None:
    """PyTorch's own count agrees where there are no groups, and is wrong where there are."""
    volume = torch.randn(1, 6, 5, 5, 5, requires_grad=True)
    for groups in (1, 6):
        weight = torch.randn(6, 6 // groups, 3, 3, 3, requires_grad=True)
        with FlopCounterMode(display=False, custom_mapping=COUNTS) as ours, FlopCounterMode(display=False) as theirs:
            out = conv3d(volume, weight, padding=1, groups=groups)
            forward = ours.get_total_flops()
            out.sum().backward()
        assert ours.get_total_flops() == 3 * forward
        assert (theirs.get_total_flops() == 3 * forward) == (groups == 1)


def step_for_real(network: Any, plan: LaunchPlan) -> None:
    fit = fit_config(plan, 1)
    run = made_up_run(ParallelNetwork(network), plan, fit, Ranks(0, 1, CPU))
    accumulate(run, new_state(network, fit), iter([made_up_batch(plan)]))


@pytest.fixture(scope="module")
def sharded() -> StepRecord:
    """A step of SHARDED."""
    return simulate(SHARDED, 0)


def test_every_byte_has_a_category_and_the_peak_is_their_sum(sharded: StepRecord) -> None:
    seen = memory(sharded)
    assert tuple(seen.peak) == CATEGORIES
    assert sum(seen.peak.values()) == seen.peak_bytes == max(sum(levels) for _, levels in seen.timeline)
    assert all(seen.largest[category] >= seen.peak[category] > -1 for category in CATEGORIES)
    assert [name for name, _ in seen.marks] == ["micro-step 1", "micro-step 2", "update"]


def test_an_operation_s_input_and_result_are_there_at_once() -> None:
    with FakeTensorMode(), Recorder() as recorder:
        tensor = torch.zeros(1 << 20)
        recorder.mark("micro-step 1")
        for _ in range(3):
            tensor = tensor + 1.0
    assert memory(recorder.record).peak_bytes == 2 * tensor.nbytes


def test_no_block_stays_gathered_between_two_micro_steps(sharded: StepRecord) -> None:
    with torch.device("meta"):
        network = MedSegFormer(SHARDED.network, SHARDED.classes)
    in_blocks = sum(parameter.numel() for block in network.blocks() for parameter in block.parameters())
    between = dict(sharded.marks)["micro-step 2"]
    alive = [each for each in sharded.allocations if each.born < between < (each.died or between + 1)]
    gathered = sum(each.size for each in alive if each.operation == "gather")
    assert gathered <= 2 * (SHARDED.parameters - in_blocks)


def test_messages_are_those_of_the_strategy(sharded: StepRecord) -> None:
    """Weights are gathered for each micro-step and gradients cut; copies are averaged once a step."""
    plan, whole = SHARDED, 2 * SHARDED.parameters
    sent = {(each.name, each.link): each for each in timing(sharded, plan, A100).traffic}
    half = 1 / 2  # of a ring of two
    assert sent["all-gather", "node"].sent_bytes == pytest.approx(2 * plan.accumulation * half * whole, rel=0.15)
    assert sent["reduce-scatter", "node"].sent_bytes == pytest.approx(plan.accumulation * half * 2 * whole, rel=0.1)
    assert sent["all-reduce", "node"].sent_bytes == pytest.approx(2 * half * whole, rel=0.1)


@pytest.mark.parametrize("strategy", ["hsdp", "fsdp", "ddp"])
def test_the_estimate_of_a_deep_network_agrees_with_its_simulation(strategy: str) -> None:
    """Memory to 3 %, on which the remedies count; time to 10 %."""
    network = replace(PRESETS["tiny"], depths=(2, 1, 4, 3))
    plan = replace(SHARDED, network=network, strategy=strategy, patch=(96, 96, 96), checkpointing="selective")
    plan = replace(plan, ranks=16, group={"hsdp": 8, "fsdp": 16, "ddp": 1}[strategy], global_batch=64)
    record, found = simulate(plan, A100.memory_bytes), estimate(plan, A100)
    assert found.memory.peak_bytes == pytest.approx(memory(record).peak_bytes, rel=0.03)
    assert found.timing.step_s == pytest.approx(timing(record, plan, A100).step_s, rel=0.1)


def test_a_product_takes_waves_of_tiles_and_attention_a_block_of_keys_for_each_head() -> None:
    """Of 108 multiprocessors: 512 x 4096 numbers in 256 tiles of 128 x 64 are three waves, the last not full."""
    assert occupancy(Products(1, 512, 4096, 128), 108) == pytest.approx(256 / (3 * 108))
    assert occupancy(Products(1, 512, 512, 1 << 20), 108) == pytest.approx(96 / 108)  # 32 tiles, each in 3 parts
    assert occupancy(Products(4, 200, 1, 0), 108) == pytest.approx(8 / 108)  # 4 heads, 2 blocks of keys
    assert occupancy(None, 108) == 1.0


def test_the_terms_of_occupancy_and_launches_are_told_apart() -> None:
    product = Operation("aten.mm", "forward", "encoder", 10**10, products=Products(1, 512, 512, 128))
    small = Operation("aten.add", "backward", "decoder", moved_bytes=8)
    record = StepRecord([], [product, *[small] * 10], [("micro-step 1", 0)])
    found = timing(record, ALONE, A100, replace(PLANNED, launch_s=10e-6))
    full_s = 10**10 / (0.55 * A100.flops / 2)  # TF32
    assert found.without_s == pytest.approx(full_s + 10 * SHORTEST_S)
    assert found.occupancy_s == pytest.approx(full_s * (108 / 32 - 1))
    assert found.launches_s == pytest.approx(10 * (10e-6 - SHORTEST_S))  # the product gives the CPU time enough
    assert found.step_s == pytest.approx(found.without_s + found.occupancy_s + found.launches_s)
    assert found.mfu_without > found.mfu


def test_products_in_float32_take_twice_as_long_as_in_16_bit_and_memory_as_long() -> None:
    product, copy = Operation("aten.mm", "forward", "", 10**15), Operation("aten.copy_", "forward", "", 0, 10**12)
    for operation, ratio in ((product, 2), (copy, 1)):
        record = StepRecord([], [operation], [("micro-step 1", 0)])
        plans = [replace(ALONE, precision=precision) for precision in ("float32", "float16", "bfloat16")]
        float32_s, float16_s, bfloat16_s = (timing(record, plan, A100).step_s for plan in plans)
        assert float32_s == pytest.approx(ratio * float16_s)
        assert bfloat16_s == float16_s


def launch(**changes: Any) -> Launch:
    return replace(Launch(ranks=32, group=8, gpu="NVIDIA A100-SXM4-80GB", memory_bytes=85e9, digest="d"), **changes)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    content = {"fits": True, "digest": "d", "ranks": 32, "strategy": "hsdp", "group": 8, "preset": "xl"}
    text = json.dumps({**content, "gpu": {"key": A100.key, **asdict(A100)}})
    (tmp_path / "xl-a100-80gbx32.json").write_text(text)
    return tmp_path


def test_a_launch_on_many_gpus_needs_its_certificate(tmp_path: Path, certificates: Path) -> None:
    path, refusal = document.check(launch(), certificates)
    assert path == certificates / "xl-a100-80gbx32.json"
    assert not refusal
    _, refusal = document.check(launch(), tmp_path / "empty")
    assert "holds none; make one with `medseg certify --gpus 32 --gpu a100" in refusal


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"digest": "other"}, "is for other parameters or other code"),
        ({"ranks": 64}, "is for 32 ranks, not 64"),
        ({"group": 4}, "shares a copy among 8 ranks, not 4 (set MEDSEG_SHARD_RANKS)"),
        ({"gpu": "NVIDIA A100-SXM4-40GB", "memory_bytes": 42e9}, "is for GPUs of 80 GB, not 42 GB"),
        ({"gpu": "NVIDIA H100 80GB HBM3"}, "is for A100-80GB, not NVIDIA H100 80GB HBM3"),
    ],
)
def test_a_certificate_for_another_launch_is_refused(certificates: Path, changes: dict[str, Any], reason: str) -> None:
    path, refusal = document.check(launch(**changes), certificates)
    assert path is None
    assert reason in refusal
    assert "--uncertified" in refusal


def test_what_is_no_certificate_is_refused(certificates: Path) -> None:
    (certificates / "xl-a100-80gbx32.json").write_text("[]")
    assert "is not a certificate" in document.check(launch(), certificates)[1]


def test_a_calibration_that_lies_beside_certificates_is_none_of_them(certificates: Path) -> None:
    (certificates / "calibration-a100-80gb.json").write_text("{}")
    assert document.check(launch(), certificates)[0] == certificates / "xl-a100-80gbx32.json"
    assert "calibration-a100" not in document.check(launch(digest="other"), certificates)[1]


@pytest.mark.parametrize("changes", [{"gpu": ""}, {"ranks": 1}, {"ranks": 2, "gpu": "NVIDIA RTX A6000"}, {"ranks": 8}])
def test_cpus_and_a_single_machine_need_no_certificate(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert document.check(launch(**changes), tmp_path) == (None, "")


def test_above_a_machine_any_gpu_needs_one_and_the_remedy_can_be_typed(tmp_path: Path) -> None:
    path, refusal = document.check(launch(ranks=9, gpu="NVIDIA RTX A6000"), tmp_path)
    assert path is None
    assert "9 GPUs need a launch certificate" in refusal
    assert "`medseg certify --gpus 9 --gpu here`" in refusal


def by_driver(name: str, capability: tuple[int, int], count: int, gib: float, *clocks: int) -> Any:
    mhz, memory_mhz, bits = clocks
    major, minor = capability
    return SimpleNamespace(
        name=name, major=major, minor=minor, multi_processor_count=count, total_memory=int(gib * 2**30),
        clock_rate=1000 * mhz, memory_clock_rate=1000 * memory_mhz, memory_bus_width=bits,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "flops", "bytes_per_s"),  # NVIDIA's data sheets: 16 bit with sums in float32, dense
    [
        (by_driver("Tesla V100-SXM2-32GB", (7, 0), 80, 31.7, 1530, 877, 4096), 125e12, 900e9),
        (by_driver("NVIDIA GeForce RTX 3090", (8, 6), 82, 23.7, 1695, 9751, 384), 71e12, 936e9),
        (by_driver("NVIDIA GeForce RTX 4090", (8, 9), 128, 23.6, 2520, 10501, 384), 165e12, 1008e9),
        (by_driver("NVIDIA GeForce RTX 5090", (12, 0), 170, 31.4, 2407, 14001, 512), 209e12, 1792e9),
    ],
)
def test_a_gpu_without_a_data_sheet_here_is_described_by_its_driver(
    found: Any, flops: float, bytes_per_s: float
) -> None:
    gpu = described(found)
    assert gpu.flops == pytest.approx(flops, rel=0.05)
    assert gpu.memory_bytes_per_s == pytest.approx(bytes_per_s, rel=0.01)
    assert gpu.memory_bytes == found.total_memory
    assert gpu.family in found.name
    assert re.fullmatch(r"[a-z0-9-]+", gpu.key)


def test_a_gpu_with_a_data_sheet_keeps_its_figures_and_one_without_tensor_cores_is_refused() -> None:
    assert described(by_driver("NVIDIA A100-SXM4-80GB", (8, 0), 108, 79.2, 1410, 1593, 5120)) == A100
    with pytest.raises(ValueError, match=r"has no tensor cores \(compute capability 6.1\)"):
        described(by_driver("NVIDIA GeForce GTX 1080", (6, 1), 20, 7.9, 1733, 5005, 256))


def test_the_digest_changes_with_the_parameters_and_the_code() -> None:
    first = document.digest({"train": {"seed": 0}}, "code")
    assert document.digest({"train": {"seed": 1}}, "code") != first
    assert document.digest({"train": {"seed": 0}}, "other code") != first
    assert document.digest({"train": {"seed": 0}}, "code") == first
