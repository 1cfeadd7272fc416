"""Weights in 16 bits, made once for all windows of a scan.

Autocast remembers what it cast of weights that are trained; those of others it casts at every call (PyTorch 2.13,
aten/src/ATen/autocast_mode.cpp, `cached_cast`). Of `xl` that is 27 GB read and 13 written for a window.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


def cast_once(network: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The network again, with the weights of its products in `dtype`: under autocast, the same bits.

    All else is shared with `network`, hooks too. On a CPU convolutions stay as they are: some of them compute in
    float32 (model/network/cpu_convolution.py).
    """
    if dtype == torch.float32:
        return network
    products = (nn.Linear,) if device.type == "cpu" else (nn.Linear, nn.Conv3d)
    twin = copy.copy(network)
    twin._modules = {
        name: None if child is None else cast_once(child, dtype, device) for name, child in network._modules.items()
    }
    if isinstance(network, products):
        twin._parameters = {
            name: None if weight is None else nn.Parameter(weight.detach().to(dtype), requires_grad=False)
            for name, weight in network._parameters.items()
        }
    return twin
