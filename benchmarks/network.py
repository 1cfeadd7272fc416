"""Cost of a training step against other networks: CPU time per voxel, in float32 and in bfloat16 autocast.

Run     python -m benchmarks.network [--preset tiny] [--patch 64 64 64] [--batch 2] [--repeats 3]      # about 3 min
Prints  a row per network: parameters, microseconds of CPU time per voxel, MedSegFormer's cost as a fraction of it, and
        the share of this machine's own matrix-product peak that the step reaches.

One thread, process time, the fastest of the repeats after a warm-up. Every network takes the same patches, Dice and
cross-entropy on its own outputs (deep supervision where the network trains with it), AdamW. The allocator is told to
keep its memory (glibc returns large tensors to the kernel otherwise, which can double the cost of a network on CPU).

nnU-Net's network is the one that it plans for the hippocampus of the Medical Segmentation Decathlon: four stages of 32,
64, 128, 256 features, two convolutions each. It is built with `dynamic_network_architectures` where that is installed,
and otherwise as MONAI's DynUNet with the same plan; the row's name says which.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model.data.targets import Targets
from model.network.config import MODALITIES, PRESETS
from model.network.medsegformer import MedSegFormer
from model.tasks.losses import deep_supervision
from pipelines.training import allocators

NUM_CLASSES = 3
SPACING_MM = (1.0, 1.0, 1.0)
Forward = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Measurement:
    name: str
    parameters: int
    flops: int  # forward and backward
    seconds: dict[str, float]  # precision -> CPU time of a step


def main() -> None:
    arguments = parse_arguments()
    if any(os.environ.get(key) != value for key, value in allocators.SETTINGS.items()):
        # The allocator reads its settings once, when a process starts: start again with them.
        command = [sys.executable, "-m", "benchmarks.network", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **allocators.SETTINGS, "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    shape = (arguments.batch, 1, *arguments.patch)
    peak = {name: matmul_peak(dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    measurements = [
        measure(name, *build(), shape, arguments.repeats) for name, build in networks(arguments.preset).items()
    ]
    print(f"patch {arguments.batch} x {arguments.patch}; matrix product peak, GFLOP/s: ", end="")
    print(", ".join(f"{name} {value / 1e9:.0f}" for name, value in peak.items()))
    print_table(measurements, shape, peak)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 64, 64), help="multiples of 32, for SwinUNETR")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def networks(preset: str) -> dict[str, Callable[[], tuple[nn.Module, Forward]]]:
    nnunet_name, nnunet = planned_nnunet()
    found: dict[str, Callable[[], tuple[nn.Module, Forward]]] = {
        f"MedSegFormer {preset}": partial(medsegformer, preset),
        "SegResNet 16": segresnet,
        "DynUNet": dynunet,
        nnunet_name: nnunet,
    }
    if find_spec("einops"):
        return {**found, "SwinUNETR 24": swin_unetr}
    print("SwinUNETR is left out: it needs einops (pip install einops)", file=sys.stderr)
    return found


def medsegformer(preset: str) -> tuple[nn.Module, Forward]:
    network = MedSegFormer(PRESETS[preset], NUM_CLASSES)

    def forward(image: Tensor) -> Sequence[Tensor]:
        modality = torch.full(image.shape[:2], MODALITIES.index("T1"))
        return network(image, modality, SPACING_MM, auxiliary=True)

    return network, forward


def segresnet() -> tuple[nn.Module, Forward]:
    from monai.networks.nets.segresnet import SegResNet

    network = SegResNet(init_filters=16, out_channels=NUM_CLASSES)
    return network, lambda image: [network(image)]


def swin_unetr() -> tuple[nn.Module, Forward]:
    from monai.networks.nets.swin_unetr import SwinUNETR

    network = SwinUNETR(in_channels=1, out_channels=NUM_CLASSES, feature_size=24)
    return network, lambda image: [network(image)]


def dynunet(filters: Sequence[int] = (32, 64, 128, 256), levels: int = 2) -> tuple[nn.Module, Forward]:
    """nnU-Net's plan in MONAI's words."""
    from monai.networks.nets.dynunet import DynUNet

    strides = [1] + [2] * (len(filters) - 1)
    network = DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=NUM_CLASSES,
        kernel_size=[3] * len(filters),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=list(filters),
        deep_supervision=True,
        deep_supr_num=levels,
    )
    return network, lambda image: network(image).unbind(1)


def planned_nnunet() -> tuple[str, Callable[[], tuple[nn.Module, Forward]]]:
    try:
        PlainConvUNet = import_module("dynamic_network_architectures.architectures.unet").PlainConvUNet
    except ImportError:
        return "nnU-Net's plan (as DynUNet)", partial(dynunet, levels=2)

    def build() -> tuple[nn.Module, Forward]:
        network = PlainConvUNet(
            input_channels=1,
            n_stages=4,
            features_per_stage=[32, 64, 128, 256],
            conv_op=nn.Conv3d,
            kernel_sizes=3,
            strides=[1, 2, 2, 2],
            n_conv_per_stage=2,
            num_classes=NUM_CLASSES,
            n_conv_per_stage_decoder=2,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )
        return network, network

    return "nnU-Net's plan", build


def measure(name: str, network: nn.Module, forward: Forward, shape: Sequence[int], repeats: int) -> Measurement:
    torch.manual_seed(0)
    image, target = torch.randn(*shape), torch.randint(0, NUM_CLASSES, (shape[0], *shape[2:]))
    targets = [Targets(tuple((index,) for index in range(NUM_CLASSES)), ())] * shape[0]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step(low_precision: bool) -> float:
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
            outputs = forward(image)
        sizes = [output.shape[2:] for output in outputs]  # MONAI's DynUNet enlarges all of its own
        steps = [[a // b for a, b in zip(*each, strict=True)] for each in pairwise(sizes)]
        deep_supervision(outputs, target, targets, steps).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - start

    with FlopCounterMode(display=False) as counter:
        step(False)
    seconds = {}
    for precision in ("float32", "bfloat16"):
        times = [step(precision == "bfloat16") for _ in range(repeats + 1)]
        seconds[precision] = min(times[1:])
        print(f"{name}: {precision} {seconds[precision]:.3f} s a step", file=sys.stderr)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Measurement(name, parameters, counter.get_total_flops(), seconds)


def matmul_peak(dtype: torch.dtype, size: int = 2048) -> float:
    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    times = []
    for _ in range(5):
        start = time.process_time()
        torch.mm(a, b)
        times.append(time.process_time() - start)
    return 2 * size**3 / min(times)


def print_table(measurements: Sequence[Measurement], shape: Sequence[int], peak: dict[str, float]) -> None:
    voxels = shape[0] * shape[2] * shape[3] * shape[4]
    ours = measurements[0]
    print("| network | parameters, M | float32 us/voxel | ours / its | bfloat16 us/voxel | ours / its | of peak |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for other in measurements:
        cells = [other.name, f"{other.parameters / 1e6:.1f}"]
        for precision, seconds in other.seconds.items():
            cells += [f"{1e6 * seconds / voxels:.2f}", f"{ours.seconds[precision] / seconds:.2f}"]
        cells.append(f"{other.flops / other.seconds['bfloat16'] / peak['bfloat16']:.1%}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
