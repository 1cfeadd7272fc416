"""Muon (Jordan et al. 2024): each weight matrix steps along the orthogonal part of its momentum.

The singular values of the momentum are brought near to each other, so that directions with small gradients learn about
as fast as those with large ones. Matrices are the weights of linear layers, dense
convolutions (a row per output channel) and upsamplings; embeddings, heads, convolutions of one input channel and
vectors are AdamW's. A sharded matrix is gathered for its step: every rank then computes the same whole update and keeps
its part, which suits some million parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.engine.dtensors import shard_like, whole_of

# Singular values are taken to be spread over so much below the largest: these come to within twice of each other. In
# training most are smaller still (a median of 1/300), and a longer spread only makes steps of noise (0.003: no gain).
SPREAD = 0.01
LARGEST = 1.8  # what they come to, so that the mean square of a step is near that of a wholly orthogonal one
# A matrix whose squares are 0 in float32 (a norm below 1e-19) takes a step that is no longer, in proportion to it.
TINY, NEGLIGIBLE = 1e-26, 1e-8
# Quintic polynomials that take singular values in [1e-3, 1] towards 1 fastest (Amsel et al. 2025, Polar Express); three
# leave a ratio of 100 at about 10.
POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)
SMALLEST_SIDE = 16  # a narrower matrix has too few directions to balance
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
                for parameter, update in zip(parameters, orthogonal(matrix), strict=True):
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
        whole = whole_of(ahead)
        return whole.reshape(whole.shape[: self.leading[parameter]].numel(), -1)


def orthogonal(matrix_SMN: Tensor) -> Tensor:
    """U V' of each matrix's singular value decomposition U S V', roughly. `matrix_SMN`: (S, M, N) in float32.

    On a CPU by a step of Halley's, 2 to 3 times faster there than the polynomials; on a GPU, which is made for products
    of 16 bit and takes long for a decomposition, by these: an H200 needed 89 ms for the 433 matrices of `large`, and
    1,172 ms for Halley's step.
    """
    tall = matrix_SMN.shape[1] > matrix_SMN.shape[2]
    wide = matrix_SMN.mT if tall else matrix_SMN
    x = polynomials(wide) if matrix_SMN.is_cuda else halley(wide)
    return x.mT if tall else x


def polynomials(x: Tensor) -> Tensor:
    """POLYNOMIALS of the singular values, divided by a bound of the largest, in bfloat16: at most 2.5."""
    x = (x / (1.01 * x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for a, b, c in POLYNOMIALS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def halley(x: Tensor) -> Tensor:
    """Singular values between 1/100 of the largest and that come to LARGEST / 2 to LARGEST, smaller ones in proportion.

    One step of Halley's iteration with weights for SPREAD (Nakatsukasa, Bai & Gygi 2010, "Optimizing Halley's iteration
    for computing the matrix polar decomposition"), x (a + b x^2) / (1 + c x^2) of singular values x, by Cholesky's
    decomposition of the Gram matrix.
    """
    a, b, c = halley_weights(SPREAD)
    gram, one = x @ x.mT, torch.eye(x.shape[1], device=x.device)
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + TINY
    gram = gram / trace  # whose squares would be 0 for a small gradient
    square = gram.norm(dim=(1, 2), keepdim=True) + NEGLIGIBLE  # not less than the largest singular value's
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(one + gram * (c / square)).L)  # 1 is the least: no error
    return (one * (b / c) + inverse * (a - b / c)) * (LARGEST * (square * trace).rsqrt()) @ x


def halley_weights(least: float) -> tuple[float, float, float]:
    """a, b, c for singular values from `least` to 1, of which none comes nearer to 0 than with any others."""
    square = least**2
    d = (4 * (1 - square) / square**2) ** (1 / 3)
    a = math.sqrt(1 + d) + math.sqrt(8 - 4 * d + 8 * (2 - square) / (square * math.sqrt(1 + d))) / 2
    b = (a - 1) ** 2 / 4
    return a, b, a + b - 1
