"""How a device may round and choose its kernels, decided once for a process and not left to PyTorch's defaults.

    set_numerics(device, deterministic=False)       before the first operation on the device
    native(torch.bfloat16, device)                  what the device itself computes instead
    for_training(torch.bfloat16, device)            what is trained in instead

TF32           float32 products and convolutions on tensor cores, with 10 bits of mantissa: on an A100 8 times the rate
               of its float32 units, and what the launch certificate counts. Sums, norms, softmax, losses and optimizers
               stay float32.
sums           of 16-bit products are float32 throughout; PyTorch's default lets a split product be summed in 16 bit
benchmark      cuDNN times its algorithms at the first of each shape; a run has few shapes, and they come again.
deterministic  the same bits in every run on the same GPUs: no atomic additions, no timing of algorithms. An operation
               that has no such kernel ends the run with PyTorch's error, which names it.

A CPU needs none of it: there, float32 is float32, and its kernels add in one order. But one without 16-bit
instructions (AVX2 alone) emulates them: `tiny` on a patch of 32x48x32 took 4.7 s in bfloat16 and 0.34 s in float32.
There bfloat16 means float32: the same range, and more digits.

Training does so on every CPU without matrix units (AMX): the 16-bit instructions of AVX-512 multiply at half the rate
of its float32 ones (512^3 on an Intel Xeon: 83 against 151 GFLOP/s). A forward pass alone, which memory limits, gains
from 16 bit all the same: `tiny` at 96^3 took 0.70 s in bfloat16 and 0.87 s in float32 there.
"""

from __future__ import annotations

import os
from functools import cache

import torch

# cuBLAS's products are reproducible with work space of this size only (NVIDIA, cuBLAS, "Results reproducibility").
CUBLAS_WORKSPACE = ":4096:8"


def set_numerics(device: torch.device, deterministic: bool = False) -> None:
    """For this process; nothing on a CPU."""
    if device.type != "cuda":
        return
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)


def native(precision: torch.dtype, device: torch.device) -> torch.dtype:
    """`precision`, or float32 where that is bfloat16 and the device would emulate it."""
    if precision == torch.bfloat16 and device.type == "cpu" and not cpu_has_bfloat16():
        return torch.float32
    return precision


def for_training(precision: torch.dtype, device: torch.device) -> torch.dtype:
    """`precision`, or float32 where that is bfloat16 and the device trains faster in it."""
    if precision == torch.bfloat16 and device.type == "cpu" and not cpu_trains_in_bfloat16():
        return torch.float32
    return precision


@cache
def cpu_has_bfloat16() -> bool:
    """Has oneDNN kernels for it here: from AVX-512 on, or as its ONEDNN_MAX_CPU_ISA allows."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def cpu_trains_in_bfloat16() -> bool:
    """Has matrix units for it as well."""
    return cpu_has_bfloat16() and bool(torch.cpu._is_amx_tile_supported())
