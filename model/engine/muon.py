"""Muon (Jordan et al. 2024): each weight matrix steps along the orthogonal part of its momentum.

The singular values of the momentum are brought near to 1, so that directions with small gradients learn about as fast
as those with large ones. Matrices are the weights of linear layers, dense convolutions (a row per output channel) and
upsamplings; embeddings, heads, convolutions of one input channel and vectors are AdamW's. A sharded matrix is gathered
for its step: every rank then computes the same whole update and keeps its part, which suits some million parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from model.engine.dtensors import shard_like
from model.engine.numerics import for_training

# Quintic polynomials that take singular values in [1e-3, 1] towards 1 fastest (Amsel et al. 2025, Polar Express). Three
# leave a ratio of 100 at about 10; five of Jordan's, which leave almost none, cost more and won nothing.
POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)
SMALLEST_SIDE = 16  # a narrower matrix has too few directions to balance
WIDE = 3  # from this ratio of its sides on, the polynomials of the small Gram matrix cost less
LARGEST_STACK = 2**24  # elements that are orthogonalised at a time, which bounds the memory


def matrices(network: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """The parameters that are weight matrices, with the number of leading axes that make up the rows.

    Modules say so with `row_axes` (model/network/layers.py). An embedding is none: its rows are learnt one by one.
    """
    weights = []
    for module in network.modules():
        leading = 0 if isinstance(module, nn.Embedding) else getattr(module, "row_axes", 1)
        for parameter in module.parameters(recurse=False) if leading else ():
            rows = parameter.shape[:leading].numel()
            if parameter.requires_grad and min(rows, parameter.numel() // rows) >= SMALLEST_SIDE:
                weights.append((parameter, leading))
    return weights


class Muon(torch.optim.Optimizer):
    """`weights` as `matrices` gives them; `scales`: the share of `lr` that each parameter gets.

    At the same `lr` its steps are as large as AdamW's (Liu et al. 2025).
    """

    def __init__(
        self,
        weights: Iterable[tuple[nn.Parameter, int]],
        scales: Mapping[nn.Parameter, float],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        self.leading = dict(weights)
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in self.leading:
            groups.setdefault(scales[parameter], []).append(parameter)
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([{"params": members, "scale": scale} for scale, members in groups.items()], defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameters in self._stacks(group["params"]):
                matrix = torch.stack([self._direction(parameter, group["momentum"]) for parameter in parameters])
                rate = group["lr"] * 0.2 * max(matrix.shape[1:]) ** 0.5
                for parameter, update in zip(parameters, orthogonal(matrix).float(), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(shard_like(update.view(parameter.shape), parameter), alpha=rate)

    def _stacks(self, parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
        """Matrices of one shape, so that they are orthogonalised together."""
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                by_shape.setdefault((self.leading[parameter], *parameter.shape), []).append(parameter)
        for alike in by_shape.values():
            together = max(1, LARGEST_STACK // alike[0].numel())
            yield from (alike[first : first + together] for first in range(0, len(alike), together))

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's look ahead along the running mean of gradients, whole, (rows, columns)."""
        gradient = parameter.grad
        assert gradient is not None
        if "exp_avg" not in self.state[parameter]:
            self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
        mean = self.state[parameter]["exp_avg"]
        mean.lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(mean, momentum)
        whole = ahead.full_tensor() if isinstance(ahead, DTensor) else ahead
        return whole.reshape(whole.shape[: self.leading[parameter]].numel(), -1)


def orthogonal(matrix_SMN: Tensor) -> Tensor:
    """U V' of each matrix's singular value decomposition U S V', roughly (S comes near to 1, at most 2.5), in bfloat16
    where the device trains in it.

    `matrix_SMN`: (S, M, N), any floating dtype. A polynomial in X X' times X changes only singular values.
    """
    tall = matrix_SMN.shape[1] > matrix_SMN.shape[2]
    x = (matrix_SMN.mT if tall else matrix_SMN).to(for_training(torch.bfloat16, matrix_SMN.device))
    x = x / (1.01 * x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = _through_gram(x) if x.shape[2] >= WIDE * x.shape[1] else _directly(x)
    return x.mT if tall else x


def _directly(x: Tensor) -> Tensor:
    for a, b, c in POLYNOMIALS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _through_gram(x: Tensor) -> Tensor:
    """The polynomials commute: their product is found from X X' alone (in float32), and applied to X once."""
    gram = (x @ x.mT).float()
    product = torch.eye(gram.shape[1], device=gram.device).expand_as(gram)
    for a, b, c in POLYNOMIALS:
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    return product.to(x.dtype) @ x
