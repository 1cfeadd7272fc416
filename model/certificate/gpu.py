"""Makes a CPU's tensors go the way that a GPU's would, so that a machine without one can simulate it.

Fake tensors could say that they lie on a GPU, but a PyTorch built for CPU cannot run a backward pass over those. So
they lie on the CPU, and the four places where a CPU differs are set right here:

    autocast      on a GPU also lifts norms, softmax and sums to float32 (PyTorch's documentation, "CUDA Ops that
                  autocast to float32"); the CPU's list has matrix products and convolutions only
    convolution   takes detours on a CPU, and none on a GPU
    bfloat16      is trained as float32 on a CPU without matrix units, and as itself on a GPU
    memory        is the GPU's
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from model.engine import numerics, parallelize
from model.network import cpu_convolution

HALVES = (torch.float16, torch.bfloat16)
# Those of CUDA's list that this network calls. The first are given float32, the second asked for a float32 result.
INPUTS_IN_FLOAT32 = ((F, "layer_norm"), (torch, "group_norm"), (torch, "exp"), (Tensor, "exp"), (Tensor, "logsumexp"))
RESULT_IN_FLOAT32 = ((torch, "sum"), (Tensor, "sum"), (Tensor, "softmax"), (Tensor, "log_softmax"), (F, "softmax"))


@contextmanager
def as_gpu(memory_bytes: float) -> Iterator[None]:
    """Patches, since a `TorchFunctionMode` is off while a backward pass recomputes a block."""
    with ExitStack() as patches:
        for change, places in ((_with_inputs_lifted, INPUTS_IN_FLOAT32), (_with_result_lifted, RESULT_IN_FLOAT32)):
            for owner, name in places:
                patches.enter_context(patch.object(owner, name, change(getattr(owner, name))))
        patches.enter_context(patch.object(cpu_convolution, "is_needed", lambda _volume: False))
        patches.enter_context(patch.object(numerics, "cpu_trains_in_bfloat16", lambda: True))
        patches.enter_context(patch.object(parallelize, "memory_bytes", lambda _ranks: memory_bytes))
        yield


def _with_inputs_lifted(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*(_lift(each) for each in args), **{name: _lift(each) for name, each in kwargs.items()})

    return call


def _with_result_lifted(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if tensor.dtype in HALVES and torch.is_autocast_enabled("cpu"):
            kwargs["dtype"] = torch.float32
        return function(tensor, *args, **kwargs)

    return call


def _lift(value: Any) -> Any:
    halved = isinstance(value, Tensor) and value.dtype in HALVES
    return value.float() if halved and torch.is_autocast_enabled("cpu") else value
