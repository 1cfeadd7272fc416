"""Run the 6.7-billion-parameter network on this machine: a forward pass, or a training step that stores no gradient.

Run     python -m benchmarks.xl forward      # about 2 min, 14 GB
        python -m benchmarks.xl backward     # about 5 min, 18 GB
Prints  a JSON object: parameters, output shape, whether it is finite, seconds, peak memory; after `backward` also the
        loss before and after, and how many parameters moved.

Weights in bfloat16. The step applies each parameter's update in the hook that receives its gradient and drops the
gradient there: descent along the sign of the gradient, which needs no optimizer state. Activations are recomputed block
by block.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

from model.data.targets import Targets
from model.network.config import MODALITIES, PRESETS, strides
from model.network.layers import TransformerBlock
from model.network.medsegformer import MedSegFormer
from model.tasks.losses import deep_supervision

NUM_CLASSES = 4
SPACING_MM = (1.5, 1.2, 0.9)  # at 1 mm the logarithm is 0, and so the gradient of its weights
LEARNING_RATE = 1e-4
SMALLEST_CHANGE = 2**-7  # relative; bfloat16 (8 significant bits) could round a smaller one away


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pass_", metavar="PASS", choices=["forward", "backward"])
    parser.add_argument("--preset", choices=PRESETS, default="xl")
    parser.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    run = run_forward if arguments.pass_ == "forward" else run_backward
    print(json.dumps(run(arguments.preset, arguments.size), indent=2))


def run_forward(preset: str = "xl", size: int = 64) -> dict[str, Any]:
    start = time.perf_counter()
    network = build(preset).eval()
    built = time.perf_counter()
    with torch.inference_mode():
        logits = network(*scan(size, channels=1), SPACING_MM)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "output_shape": list(logits.shape),
        "finite": bool(logits.isfinite().all()),
        "build_s": round(built - start, 1),
        "forward_s": round(time.perf_counter() - built, 1),
        "peak_memory_gib": peak_memory_gib(),
    }


def run_backward(preset: str = "xl", size: int = 64) -> dict[str, Any]:
    """One step on a scan that shows every modality, so that every row of the modality embedding has a gradient."""
    network = build(preset)
    apply_activation_checkpointing(network, check_fn=lambda module: isinstance(module, TransformerBlock))
    image, modality = scan(size, channels=len(MODALITIES) - 1)
    target = (image.mean(1) > 0).long()
    targets = [Targets(tuple((index,) for index in range(NUM_CLASSES)), ())]
    moved, zeros = update_as_gradients_arrive(network)
    start = time.perf_counter()
    before = deep_supervision(
        network(image, modality, SPACING_MM, auxiliary=True), target, targets, strides(SPACING_MM)
    ).mean()
    before.backward()
    seconds = time.perf_counter() - start
    with torch.inference_mode():
        after = deep_supervision(
            network(image, modality, SPACING_MM, auxiliary=True), target, targets, strides(SPACING_MM)
        ).mean()
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "parameters_moved": sum(moved.values()),
        "gradients_exactly_zero": sum(zeros.values()),
        "loss_before": before.item(),
        "loss_after": after.item(),
        "step_s": round(seconds, 1),
        "peak_memory_gib": peak_memory_gib(),
    }


def build(preset: str) -> MedSegFormer:
    """Built on the meta device and made real in bfloat16, so that float32 weights never exist.

    Without stochastic depth, which would leave the branches that it drops with no gradient at all.
    """
    with torch.device("meta"):
        network = MedSegFormer(replace(PRESETS[preset], drop_path=0.0), NUM_CLASSES).bfloat16()
    network.to_empty(device="cpu")
    torch.manual_seed(0)
    network.init_weights()
    return network.train()


def scan(size: int, channels: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((1, channels, 4, 4, 4), generator=generator)
    image = torch.nn.functional.interpolate(coarse, size=(size, size, size), mode="trilinear")
    return image.bfloat16(), torch.arange(1, channels + 1).unsqueeze(0)


def update_as_gradients_arrive(network: nn.Module) -> tuple[dict[nn.Parameter, int], ...]:
    """Two tables, complete after the backward pass: how many values of each parameter moved, and had gradient 0.

    Among billions of sums of a few bfloat16 products, some cancel exactly; they are taken as positive.
    """
    moved: dict[nn.Parameter, int] = {}
    zeros: dict[nn.Parameter, int] = {}

    def update(parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        before = parameter.detach().clone()
        with torch.no_grad():
            change = (parameter.abs() * SMALLEST_CHANGE).clamp(min=LEARNING_RATE)
            parameter.sub_(torch.where(parameter.grad < 0, -change, change))
        zeros[parameter] = int((parameter.grad == 0).sum())
        parameter.grad = None
        moved[parameter] = int((parameter != before).sum())

    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    return moved, zeros


def peak_memory_gib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


if __name__ == "__main__":
    main()
