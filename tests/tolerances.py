"""How far two results of the same arithmetic may lie apart: one derivation for every numerical comparison of the tests.

Another number of ranks or threads, another processor or another way of sharing adds the same numbers in another order;
another precision rounds them more often. What that can do follows from the arithmetic and is derived here, so no bound
is one that only the processor at hand meets. A largest difference is blunt (one element whose gradient is zero but for
rounding may go either way), a mean is blind to one element: a comparison asks both, the bulk tightly and the worst
element within what rounding can do to it.

How near the tests come to their bounds: `pytest -o log_cli=true --log-cli-level=INFO`.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.engine.muon import LARGEST, SPREAD, halley_weights, matrices
from model.engine.optim import learning_rate
from model.engine.trainer import FitConfig
from model.network.layers import Upsample

log = logging.getLogger(__name__)

# Largest of many differences, in units of their root mean square: six deviations, which one value in 5e8 passes, of
# elements whose own deviation may be twice that of all. Measured: 5 to 9 among 1e4 to 1e6 logits.
WORST = 12
# How much farther the gradient of one tensor may be off than all gradients together: its terms, of many voxels, may
# nearly cancel, while their roundings do not. Measured: up to 5 times, for the gains of queries and keys.
CANCELLATION = 10
# Roundings to 16 bit that a layer under autocast makes: of its weights, its input, its product, the activation or norm
# behind it and the sum with the residual stream.
ROUNDINGS_OF_A_LAYER = 5
# Voxels of a 16^3 patch that may change their class, see `dice_of`. The linear probe whitens features to which it adds
# 1e-3 of their variance, which enlarges what they part by some 30 times: 1 voxel in the mean, in place of 0.02.
FLIPS, FLIPS_OF_THE_PROBE = 2, 8
# With patches of 16^3, stages 3 and 4 of the encoder hold one token each: the softmax over its one key is 1 whatever
# query and key say, so their gradients are zero but for rounding, and where these weights go is rounding's choice.
UNDETERMINED = re.compile(r"encoder\.stages\.[23]\.blocks\.\d+\.attention\.(query|query_norm|key_norm)\.weight")
HALF_DETERMINED = re.compile(r"encoder\.stages\.[23]\.blocks\.\d+\.attention\.key_value\.weight")
# What Muon makes of a small singular value: the slope of its rational function at 0, 98.
MUON_GAIN = LARGEST * halley_weights(SPREAD)[0]


def roundoff(dtype: torch.dtype = torch.float32) -> float:
    """The most that one rounding changes a value by, relative to it: 6.0e-8, in bfloat16 3.9e-3, in float16 4.9e-4."""
    return torch.finfo(dtype).eps / 2


def rounded(times: float, dtype: torch.dtype = torch.float32) -> float:
    """Relative distance, in root mean square, of two values that were each rounded `times` times.

    A rounding is spread evenly over +-u: u / sqrt(3) in root mean square, of either sign. So `times` of them add up
    like a random walk to sqrt(times / 3) u (Higham and Mary 2019), and two results part by sqrt(2) times that.
    """
    return math.sqrt(2 * times / 3) * roundoff(dtype)


def reordered_sum(terms: float, dtype: torch.dtype = torch.float32) -> float:
    """Relative distance, in root mean square, of the sums of `terms` numbers of one size in two orders.

    Each addition rounds a partial sum. Of numbers of random sign, partial sum k has sqrt(k / terms) of the size of the
    last: the roundings count half, as `terms / 2` of the result. Of numbers of one sign they count a third. Kernels
    that add in blocks, as all do, stay below.
    """
    return rounded(terms / 2, dtype)


def interpolated(voxels: int) -> float:
    """Relative distance, in root mean square, of white noise sampled twice at the same places of an axis this long.

    A place is a float32 in [-1, 1] after some 16 roundings, so it is off by `voxels / 2` times that; from voxel to
    voxel white noise changes by sqrt(2) of its size, along three axes.
    """
    return math.sqrt(6) * voxels / 2 * rounded(16)


def evaluation(network: nn.Module) -> float:
    """Relative distance, in root mean square, of a network's outputs when every sum in it may have another order.

    Every product is a sum over its fan-in; norms and means are summed pairwise and add a few roundings. A change on the
    way arrives at the output about as large as it was, relative to what it changes: the norms see to that, and
    test_a_small_change_of_the_image_is_as_small_in_the_logits holds it. Layers side by side are counted as if they
    followed each other. `nano`: 3.1e-6; float32 was measured 6e-7 to 8e-7 from float64.
    """
    return reordered_sum(sum(_fan_ins(network)))


def gradients(network: nn.Module, voxels: int) -> float:
    """As `evaluation`, of the gradient: forward, backward, and the sum over all `voxels` of the batch.

    `nano`, four patches of 16^3: 6.2e-6; measured against float64: 9e-7 for all tensors, 1e-7 for the norm.
    """
    return reordered_sum(2 * sum(_fan_ins(network)) + voxels)


def half_precision(network: nn.Module, dtype: torch.dtype) -> float:
    """Relative distance, in root mean square, of the gradient under 16-bit autocast from that of float32.

    Sums are in float32; what flows on is rounded ROUNDINGS_OF_A_LAYER times a layer, forward and backward: 0.06 for
    `nano` in bfloat16. Sums of the gradient that nearly cancel keep the rounding of their terms: a single tensor may be
    that far off relative to the largest one. Measured where bfloat16 is emulated: 0.008 to 0.028.
    """
    return rounded(2 * ROUNDINGS_OF_A_LAYER * len(_fan_ins(network)), dtype) / math.sqrt(2)  # one side only


def _fan_ins(network: nn.Module) -> list[int]:
    found = []
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            found.append(module.weight[0].numel())
        elif isinstance(module, Upsample):
            found.append(module.weight.shape[-1])
    return found


def rates(config: FitConfig) -> list[float]:
    """The learning rate of each step of a run."""
    peak, final = config.learning_rate, config.final_learning_rate
    return [
        learning_rate(step, config.steps, config.warmup_steps, peak, final, config.schedule)
        for step in range(config.steps)
    ]


def adamw_reach(of_steps: Sequence[float], beta2: float, beta1: float = 0.9) -> float:
    """The farthest that AdamW moves an element in steps of these learning rates, whatever its gradients.

    A step is `rate * m / sqrt(v)`, m and v being weighted means of the gradients and of their squares so far, weights a
    and b. By Cauchy and Schwarz |m| / sqrt(v) <= sqrt(sum of a^2 / b), which is 1 in the first step and little more in
    the next ones. Two runs may lie twice as far apart: where the gradient is zero but for rounding, rounding decides
    about the sign.
    """
    reach = 0.0
    for step, rate in enumerate(of_steps, start=1):
        a = [(1 - beta1) * beta1**age / (1 - beta1**step) for age in range(step)]
        b = [(1 - beta2) * beta2**age / (1 - beta2**step) for age in range(step)]
        reach += rate * math.sqrt(sum(x * x / y for x, y in zip(a, b, strict=True)))
    return reach


def adamw_parting(noise: float) -> float:
    """Mean difference of an AdamW step on two gradients that differ by `noise` (relative, root mean square), in rates.

    An element whose gradient is x of the root mean square parts by at most min(2, 2 noise / x). Gradients are near to
    normally distributed, and the mean of that is 1.6 noise (1 + log(1 / noise)): 2e-4 for noise 1e-5.
    """
    return 1.6 * noise * (1.1 + math.log(1 / noise))


def muon_step(rate: float, rows: int, columns: int) -> float:
    """What Muon multiplies the orthogonalised matrix by."""
    return rate * 0.2 * math.sqrt(max(rows, columns))


def muon_parting(noise: float, rows: int, columns: int) -> float:
    """Mean difference of two orthogonalised matrices, of gradients that differ by `noise`.

    The function of singular values enlarges no change more than MUON_GAIN times, of a matrix that was divided by the
    fourth root of the sum of its singular values' fourth powers: so its norm is at most the fourth root of their
    number. A matrix whose norm is d has elements of d / sqrt(rows * columns) in the mean.
    """
    return MUON_GAIN * noise * min(rows, columns) ** 0.25 / math.sqrt(rows * columns)


def dice_of(voxels: int, flips: int = FLIPS) -> float:
    """How far Dice of a structure of `voxels` voxels moves if `flips` voxels change their class.

    Each changes overlap and size by at most 1: 2 / (voxels - 1). Voxels flip whose two largest logits lie nearer to
    each other than the outputs part: of 16^3, at a density of 0.8 a deviation, 0.02 in the mean for `evaluation(nano)`;
    more than FLIPS do once in a million.
    """
    return 2 * flips / (voxels - 1)


def within(measured: Any, bound: Any, what: str) -> None:
    """Assert `measured <= bound`, which is false for NaN, and log both."""
    measured, bound = float(measured), float(bound)
    log.info("%s: %.3g of %.3g", what, measured, bound)
    assert measured <= bound, f"{what}: {measured:.4g} exceeds {bound:.4g}"


def agree(found: Any, expected: Any, relative: float, what: str = "difference") -> None:
    """Assert that two arrays are one but for rounding: `relative` of the root mean square in the bulk; in the worst
    element WORST times that, or as much of its own size if it is one of the large ones."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    difference, scale = found.detach().double() - expected.detach().double(), _root_mean_square(expected)
    within(_root_mean_square(difference), relative * scale, f"{what}, root mean square")
    size = (scale + expected.detach().abs()).clamp(min=torch.finfo(torch.float32).tiny)
    within((difference.abs() / size).max(), WORST * relative, f"{what}, largest")


def _root_mean_square(values: Tensor) -> Tensor:
    return values.detach().double().square().mean().sqrt()


def weights_agree(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    start: nn.Module,
    config: FitConfig,
    voxels: int,
) -> None:
    """Assert that two runs from `start` with batches of `voxels` voxels are one run, but for rounding.

    In the mean of every tensor: what the gradients' rounding does to the steps, and the rounding of the weights by each
    step (the decay and the step). In the worst element of all: what two runs can do at all.

    What faults do, in bounds of the mean of the worst tensor (five steps of `nano` on two ranks; 0.04 without a fault):
    no all-reduce, or the same batches on both ranks, 2,900; another seed of a rank's data 4,800; one bias of four
    elements not reduced 390; gradients half as large 110, since AdamW hardly sees a scale, but the norm parts by 0.5.
    """
    noise, of_steps = gradients(start, voxels), rates(config)
    muon = dict(matrices(start)) if config.optimizer == "muon" else {}
    means, worst = {}, {}
    for name, parameter in start.named_parameters():
        weight, difference = theirs[name].double(), ours[name].double() - theirs[name].double()
        assert difference.isfinite().all(), name
        if parameter in muon:
            rows = parameter.shape[: muon[parameter]].numel()
            columns, step = parameter.numel() // rows, muon_step(sum(of_steps), rows, parameter.numel() // rows)
            parting, reach = step * muon_parting(noise, rows, columns), step * LARGEST
        else:
            parting, reach = sum(of_steps) * adamw_parting(noise), adamw_reach(of_steps, config.beta2)
        worst[name] = float((difference.abs() / (2 * reach + 4 * len(of_steps) * roundoff() * weight.abs())).max())
        if not UNDETERMINED.match(name):
            part = difference[len(difference) // 2 :] if HALF_DETERMINED.match(name) else difference
            rounding = rounded(2 * len(of_steps)) * _root_mean_square(weight)
            means[name] = float(part.abs().mean() / (parting + rounding))
    for measure, found in (("mean", means), ("largest", worst)):
        name = max(found, key=lambda each: found[each])
        within(found[name], 1, f"weights, {measure} difference of {name} in units of its bound")


def loss_parting(network: nn.Module, voxels: int, config: FitConfig, gradient_norm: float) -> float:
    """How far the losses (of about 1) of two runs may lie apart after the steps of `config`.

    The loss is a mean over voxels of what the network says. The elements of weights that part have gradients as small
    as their noise, so that in sum they change it by their number's root times 2 noise, rate and the gradient's norm.
    """
    elements = sum(parameter.numel() for parameter in network.parameters())
    moved = 2 * gradients(network, voxels) * sum(rates(config)) * math.sqrt(elements) * gradient_norm
    return 2 * evaluation(network) + moved


def norm_parting(network: nn.Module, voxels: int) -> float:
    """Relative distance of the gradients' norms of two runs some steps from their start.

    A gradient changes by about its own size while the weights move as far as a run takes them, so it parts by the
    share that the weights part by: by `adamw_parting`'s law, its square in place of the mean, sqrt(6.4 noise).
    """
    return math.sqrt(6.4 * gradients(network, voxels))
