"""A large scan through the sliding window: memory and time against MONAI's, and what is added to the network's own.

Run     python -m benchmarks.inference [--size 400 512 512] [--window 96] [--overlap 0.25] [--classes 14]
Needs   9 GiB of memory and, at the sizes above, some minutes of one core
Prints  a row per comparison: ours, MONAI's, their ratio and the ratio aimed at

Either side runs in a process of its own, on one thread, with the same network: a pointwise one, so that what is
measured is the sliding window. Time is CPU time, from the image to probabilities (MONAI) or to the label map (ours).
Memory is the peak above that of the process with its imports and without the image. Both blend with the same weights,
and the label maps are compared. The share of the overhead is of the real network `tiny`, on a smaller scan.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from model.tasks.inference import blocks, largest
from model.tasks.layout import gaussian

SPACING_MM = (1.0, 1.0, 1.0)
SMALL, SMALL_WINDOW = (128, 128, 128), (64, 64, 64)
LOGITS = 5.0  # their size; the largest of 14 probabilities is then 0.9 in the mean


def main() -> None:
    arguments = parse_arguments()
    if arguments.side:
        print(json.dumps({"ours": ours, "monai": monai, "overhead": overhead}[arguments.side](arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.labels = Path(folder) / "labels.npy"
        found = {side: in_a_process(side, arguments) for side in ("overhead", "ours", "monai")}
    mine, theirs = found["ours"], found["monai"]
    size = "x".join(map(str, arguments.size))
    print("| | ours | MONAI | ours / MONAI | aim |\n|---|---:|---:|---:|---:|")
    for what, key, unit, aim in (("peak memory", "memory_gib", "GiB", "0.25"), ("CPU time", "seconds", "s", "1")):
        cells = f"{mine[key]:.3g} {unit} | {theirs[key]:.3g} {unit} | {mine[key] / theirs[key]:.2f}"
        print(f"| {what} of {size}, {arguments.classes} classes | {cells} | {aim} |")
    share = found["overhead"]["seconds"] / found["overhead"]["network_seconds"] - 1
    print(f"| over the network's own time, `tiny` | {share:.1%} | | | 10% |")
    print(f"{theirs['equal']:.7f} of the voxels have one label", file=sys.stderr)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(400, 512, 512))
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--overlap", type=float, default=0.25, help="MONAI's default; ours is 0.5")
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--side", choices=("ours", "monai", "overhead"), help="one side alone, in this process")
    parser.add_argument("--labels", type=Path, help="where ours leaves its label map for MONAI's to be compared with")
    return parser.parse_args()


def in_a_process(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    numbers = [*("--size", *arguments.size), "--window", arguments.window, "--overlap", arguments.overlap]
    command = [*numbers, "--classes", arguments.classes, "--labels", arguments.labels, "--side", side]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.inference", *map(str, command)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{side} failed: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


class Pointwise(nn.Module):
    """Logits of a voxel from that voxel alone."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.slope = LOGITS * torch.linspace(-1, 1, classes).view(1, classes, 1, 1, 1)
        self.offset = -0.5 * self.slope * self.slope / LOGITS

    def forward(self, image: Tensor, *_: object) -> Tensor:
        return torch.addcmul(self.offset, image, self.slope)


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    network, groups = Pointwise(arguments.classes), [(index,) for index in range(arguments.classes)]

    def segment() -> Tensor:
        image = scan(arguments.size)
        label = torch.zeros(arguments.size, dtype=torch.uint8)
        window, modality = (arguments.window,) * 3, torch.tensor([1])
        for block in blocks(network, image, modality, SPACING_MM, groups, window, overlap=arguments.overlap):
            label[block.box] = largest(block.probability)[1]
        return label

    label, found = measured(segment)
    if arguments.labels:
        np.save(arguments.labels, label.numpy())
    return found


def monai(arguments: argparse.Namespace) -> dict[str, Any]:
    from monai.inferers.utils import sliding_window_inference

    network = Pointwise(arguments.classes)
    weight = torch.einsum("d,h,w->dhw", *[torch.from_numpy(gaussian(arguments.window))] * 3).float()

    def segment() -> Any:
        return sliding_window_inference(
            scan(arguments.size)[None],
            (arguments.window,) * 3,
            1,
            lambda patch: network(patch).softmax(1),
            overlap=arguments.overlap,
            roi_weight_map=weight,
        )

    with torch.inference_mode():
        probability, found = measured(segment)
        if arguments.labels:
            label = torch.from_numpy(np.load(arguments.labels))
            equal = [(largest(probability[0, :, at])[1] == label[at]).double().mean() for at in range(len(label))]
            found["equal"] = float(torch.stack(equal).mean())
    return found


def overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """Of the real network, in float32: all, and what of it is spent in the network."""
    network = MedSegFormer(PRESETS["tiny"], num_classes=arguments.classes).eval()
    inside, forward = [], network.forward

    def timed(*inputs: Any) -> Any:
        start = time.process_time()
        answer = forward(*inputs)
        inside.append(time.process_time() - start)
        return answer

    network.forward = timed  # type: ignore[method-assign]
    groups = [(index,) for index in range(arguments.classes)]

    def segment(size: Sequence[int] = SMALL) -> None:
        scanned = (scan(size), torch.tensor([1]), SPACING_MM, groups, SMALL_WINDOW)
        for block in blocks(network, *scanned, overlap=0.5):
            largest(block.probability)

    segment(SMALL_WINDOW)  # what is loaded for the first window of all is none of the overhead
    inside.clear()
    _, found = measured(segment)
    return {**found, "network_seconds": sum(inside)}


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What it returns, its CPU seconds, and its peak of memory above what was there before."""
    torch.set_num_threads(1)
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start = time.process_time()
    result = work()
    return result, {
        "seconds": time.process_time() - start,
        "memory_gib": (kilobytes("VmHWM") - before) / (1 << 20),
    }


def kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def scan(size: Sequence[int]) -> Tensor:
    """(1, D, H, W) of smooth waves from -1 to 1, so that every class is the largest somewhere."""
    d, h, w = (torch.sin(torch.arange(n) * (6.0 / n)) for n in size)
    return (d[:, None, None] * h[:, None] * w)[None].contiguous()


if __name__ == "__main__":
    main()
