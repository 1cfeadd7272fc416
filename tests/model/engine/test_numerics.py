"""What a GPU may round is set, not left to defaults. The flags can be read without one."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from model.engine import numerics
from model.engine.hardware import find_gpu
from model.engine.numerics import for_training, native, set_numerics
from model.engine.parallelize import autocast
from model.engine.progress import peak_flops

GPU, CPU = torch.device("cuda"), torch.device("cpu")
MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


def flags() -> dict[str, Any]:
    return {
        "float32": torch.get_float32_matmul_precision(),
        "cudnn tf32": CUDNN.allow_tf32,
        "float16 sums": MATMUL.allow_fp16_reduced_precision_reduction,
        "bfloat16 sums": MATMUL.allow_bf16_reduced_precision_reduction,
        "benchmark": CUDNN.benchmark,
        "deterministic convolutions": CUDNN.deterministic,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = flags()
    yield
    torch.set_float32_matmul_precision(before["float32"])
    CUDNN.allow_tf32, CUDNN.benchmark = before["cudnn tf32"], before["benchmark"]
    CUDNN.deterministic = before["deterministic convolutions"]
    MATMUL.allow_fp16_reduced_precision_reduction = before["float16 sums"]
    MATMUL.allow_bf16_reduced_precision_reduction = before["bfloat16 sums"]
    torch.use_deterministic_algorithms(before["deterministic"])
    assert flags() == before


def test_float32_on_a_gpu_is_the_tf32_that_the_certificate_counts() -> None:
    set_numerics(GPU)
    assert MATMUL.allow_tf32
    assert flags() == {
        "float32": "high", "cudnn tf32": True, "float16 sums": False, "bfloat16 sums": False,
        "benchmark": True, "deterministic convolutions": False, "deterministic": False,
    }  # fmt: skip
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_the_peak_in_float32_is_tf32_s_half_of_that_in_16_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA A100-SXM4-80GB")
    peaks = [peak_flops.__wrapped__(GPU, precision) for precision in ("float32", "float16", "bfloat16")]
    sheet = find_gpu("a100-80gb").flops
    assert peaks == [sheet / 2, sheet, sheet]


def test_the_switch_leaves_no_kernel_that_adds_in_any_order() -> None:
    set_numerics(GPU)
    set_numerics(GPU, deterministic=True)
    found = flags()
    assert found["deterministic"]
    assert found["deterministic convolutions"]
    assert not found["benchmark"]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_cpu_stays_as_it_is() -> None:
    before = flags()
    set_numerics(CPU, deterministic=True)
    assert flags() == before


@pytest.fixture
def uncached() -> Iterator[None]:
    numerics.cpu_has_bfloat16.cache_clear()
    numerics.cpu_trains_in_bfloat16.cache_clear()
    yield
    numerics.cpu_has_bfloat16.cache_clear()
    numerics.cpu_trains_in_bfloat16.cache_clear()


@pytest.mark.usefixtures("uncached")
@pytest.mark.parametrize(("has_instructions", "has_units"), [(True, True), (True, False), (False, False)])
def test_a_cpu_computes_in_float32_where_16_bit_would_be_slower(
    has_instructions: bool, has_units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated thirty times, in training also where there are instructions and no matrix units."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_units)
    assert native(torch.bfloat16, CPU) == (torch.bfloat16 if has_instructions else torch.float32)
    wanted = torch.bfloat16 if has_units else torch.float32
    assert for_training(torch.bfloat16, CPU) == wanted
    for which in (native, for_training):
        assert which(torch.bfloat16, GPU) == torch.bfloat16
        assert which(torch.float16, CPU) == torch.float16  # asked for by tests alone
    with autocast(CPU, "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == wanted
