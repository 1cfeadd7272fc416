"""`medseg predict` as whole processes: a large CT, a folder of small scans; beside MONAI's and nnU-Net's.

Run     python -m benchmarks.predict [--data DIR] [--grid 1.5] [--only scan monai nnunet folder]     # 15 min, 2 cores
Needs   12 GiB of memory for the peers; nnU-Net in .bench, as `make .bench/ready` makes it
Reads   DIR, at any depth: Task04_Hippocampus/imagesTr; without it such scans are made up
Prints  a Markdown table: wall and CPU seconds of whole processes, and the peak of resident memory

The scan: CT of 512x512x300 voxels of 0.8x0.8x1.5 mm, a body in air, on a table; 14 classes, the preset `tiny`, random
weights, windows of 64^3 that overlap by a half, on a grid of 1.5 mm, which TotalSegmentator's networks have. `network`:
the share of the process's time in which the network computes, by CPU time and by the clock.
MONAI: the same network and weights, as its tutorials write such a program: LoadImage, Orientation, CropForeground,
Spacing, ScaleIntensityRange, sliding_window_inference with a Gaussian, arg-max, back by the nearest voxel, SaveImage.
nnU-Net: its predictor, with the network that its planner plans for a cohort of such scans on that grid, without
mirroring; its windows are of 128^3, so that it runs on a part of the scan of 128 slices, and ours on the same.
The folder: 50 hippocampi, `tiny`, windows of 40x56x40 as in profiles/multi.yaml, mostly one a scan; the cost of a scan
is that of 50 less that of 2, over 48.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}  # before anything that is imported here sets threads
PEERS = REPOSITORY / ".bench" / "bin" / "python"
CLASSES, WINDOW, PART_SLICES = 14, 64, 128
SCANS, FEW = 50, 2
GIB = 1 << 20  # in the kilobytes that the kernel counts
PARTS = ("scan", "monai", "nnunet", "folder")


class Cost(NamedTuple):
    """Of a process and what it started: seconds, and of the largest of them the peak of memory."""

    wall_s: float
    cpu_s: float
    gib: float
    told: dict[str, Any]

    def row(self, what: str, *, of: Cost | None = None) -> str:
        ratio = (
            f"{of.wall_s / self.wall_s:.2f} | {of.cpu_s / self.cpu_s:.2f} | {of.gib / self.gib:.2f}" if of else "| |"
        )
        return f"| {what} | {self.wall_s:.1f} s | {self.cpu_s:.1f} s | {self.gib:.2f} GiB | {ratio} |"


def main() -> None:
    arguments = parse_arguments()
    if arguments.side:
        {"ours": ours, "monai": monai}[arguments.side](arguments.rest)
        return
    if "nnunet" in arguments.only and not PEERS.exists():
        sys.exit(f"{PEERS}: not there; `make .bench/ready` makes it, or --only {' '.join(set(PARTS) - {'nnunet'})}")
    with tempfile.TemporaryDirectory(prefix="medseg-bench-") as scratch:
        print(f"load of the machine before: {os.getloadavg()[0]:.2f}, on {len(os.sched_getaffinity(0))} cores")
        for line in measured(Path(scratch), arguments):
            print(line, flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real scans; without it, hippocampi are made up")
    parser.add_argument("--grid", type=float, default=1.5, help="mm of the network's voxels")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--slices", type=int, default=300, help="of the large scan")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--side", choices=("ours", "monai"), help="in this process; what follows is for it")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    return parser.parse_args()


def measured(scratch: Path, arguments: argparse.Namespace) -> Iterator[str]:
    from benchmarks import predict_inputs

    yield "| | wall | CPU | peak | ours / its wall | CPU | peak |\n|---|---:|---:|---:|---:|---:|---:|"
    if set(arguments.only) - {"folder"}:
        source = predict_inputs.ct_source((arguments.grid,) * 3, CLASSES - 1)
        project = predict_inputs.project(scratch / "ct", source, (WINDOW,) * 3, arguments.overlap)
        yield from large(project, scratch, arguments)
    if "folder" in arguments.only:
        source = predict_inputs.hippocampus_source()
        project = predict_inputs.project(scratch / "mr", source, predict_inputs.HIPPOCAMPUS_PATCH)
        yield folder(project, scratch, arguments.data)


def large(project: Path, scratch: Path, arguments: argparse.Namespace) -> Iterator[str]:
    from benchmarks import predict_inputs

    scan = predict_inputs.ct(scratch / "scan.nii.gz", arguments.slices)
    if {"scan", "monai"} & set(arguments.only):
        mine = predicted(project, scan, scratch / "out.nii.gz")
        yield mine.row(f"512x512x{arguments.slices}, {CLASSES} classes")
        cpu, wall = mine.told["cpu_s"] / mine.cpu_s, mine.told["wall_s"] / mine.wall_s
        yield f"| network: {mine.told['runs']} windows | {wall:.0%} | {cpu:.0%} | | | | |"
    if "monai" in arguments.only:
        asked = [scan, scratch / "monai", project, arguments.grid, arguments.overlap]
        theirs = run([sys.executable, "-m", "benchmarks.predict", "--side", "monai", *asked], project)
        yield theirs.row("the same, MONAI, same network", of=mine)
    if "nnunet" in arguments.only:
        small = predict_inputs.part(scan, scratch / "part" / "part_0000.nii.gz", min(PART_SLICES, arguments.slices))
        mine = predicted(project, small, scratch / "small.nii.gz")
        yield mine.row(f"its middle {PART_SLICES} slices")
        (scratch / "part" / "grid.json").write_text(json.dumps([arguments.grid, CLASSES, arguments.slices]))
        theirs = run([PEERS, REPOSITORY / "benchmarks" / "peers.py", "prediction", scratch / "part"], project)
        yield theirs.row(f"the same, nnU-Net, its own network: patch {theirs.told['patch']}", of=mine)


def folder(project: Path, scratch: Path, data: Path | None) -> str:
    """A row: what one scan costs beyond the start."""
    from benchmarks import predict_inputs

    found = sorted(data.rglob("Task04_Hippocampus/imagesTr/*.nii.gz"))[:SCANS] if data else []
    many = predict_inputs.hippocampi(scratch / "many", SCANS, found)
    few = predict_inputs.hippocampi(scratch / "few", FEW, found)
    one, all_ = (predicted(project, each, scratch / f"{each.name}-out", "--modality", "T1") for each in (few, many))
    wall, cpu = ((of_all - of_one) / (SCANS - FEW) for of_all, of_one in zip(all_[:2], one[:2], strict=True))
    what = f"one of {SCANS} {'' if found else 'made-up '}hippocampi, beyond the start"
    return (
        f"| {what} | {wall:.3f} s | {cpu:.3f} s | {all_.gib:.2f} GiB | | | |\n{one.row('the start, and two of them')}"
    )


def predicted(project: Path, scan: Path, target: Path, *more: str) -> Cost:
    told = target.parent / f"{target.name}.json"
    command = ["-m", "benchmarks.predict", "--side", "ours", told, "predict", scan, target, "--model", "models:/m/1"]
    return run([sys.executable, *command, *more], project, told)


def run(command: Sequence[object], cwd: Path, told: Path | None = None) -> Cost:
    start = time.monotonic()
    with (cwd / "benchmark.log").open("w+") as log:
        process = subprocess.Popen(list(map(str, command)), cwd=cwd, env=ENVIRONMENT, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.monotonic() - start
        log.seek(0)
        said = log.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {said[-2000:]}")
    found = told.read_text() if told else said.splitlines()[-1]
    return Cost(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / GIB, json.loads(found))


def ours(arguments: Sequence[str]) -> None:
    """`medseg ARGUMENTS`, and what its network took in this process into the file that is named first."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does, before numpy is imported
    from model.network.medsegformer import MedSegFormer

    forward, spans, cpu = MedSegFormer.forward, list[tuple[float, float]](), list[float]()

    def timed(*inputs: Any) -> Any:
        start, used = time.monotonic(), time.thread_time()
        answer = forward(*inputs)
        cpu.append(time.thread_time() - used)
        spans.append((start, time.monotonic()))
        return answer

    MedSegFormer.forward = timed  # type: ignore[method-assign]
    sys.argv = ["medseg", *arguments[1:]]
    from flows.commands.medseg import main as medseg

    try:
        medseg()
    finally:
        told = {"cpu_s": sum(cpu), "wall_s": united(spans), "runs": len(spans)}
        Path(arguments[0]).write_text(json.dumps(told))


def united(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds in any of the spans."""
    total, end = 0.0, 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def monai(arguments: Sequence[str]) -> None:
    """SCAN FOLDER PROJECT GRID OVERLAP -> FOLDER/scan/scan_trans.nii.gz."""
    import torch
    from monai.data.meta_tensor import MetaTensor
    from monai.inferers.utils import sliding_window_inference
    from monai.transforms.compose import Compose
    from monai.transforms.croppad.dictionary import CropForegroundd
    from monai.transforms.intensity.dictionary import ScaleIntensityRanged
    from monai.transforms.io.dictionary import LoadImaged, SaveImaged
    from monai.transforms.post.dictionary import AsDiscreted, Invertd
    from monai.transforms.spatial.dictionary import Orientationd, Spacingd

    from benchmarks.predict_inputs import CT_SCALE
    from model import weights
    from pipelines.work import project as places

    scan, target, project, grid, overlap = arguments
    network, _ = weights.load(Path(project) / places.TRAINED)
    scaled = ((edge - CT_SCALE.mean) / CT_SCALE.std for edge in (CT_SCALE.low, CT_SCALE.high))
    before = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            Orientationd("image", "RAS", labels=None),
            CropForegroundd("image", "image", select_fn=lambda values: values > -500, allow_smaller=True),
            Spacingd("image", [float(grid)] * 3, mode="bilinear"),
            ScaleIntensityRanged("image", CT_SCALE.low, CT_SCALE.high, *scaled, clip=True),
        ]
    )
    after = Compose(
        [
            AsDiscreted("label", argmax=True),
            Invertd("label", before, orig_keys="image", nearest_interp=True),
            SaveImaged("label", output_dir=target, output_dtype="uint8", print_log=False),
        ]
    )
    modality, spacing_mm = torch.tensor([[1]]), (float(grid),) * 3

    def answer(patch: torch.Tensor) -> Any:
        return network(patch.as_tensor() if isinstance(patch, MetaTensor) else patch, modality, spacing_mm)

    with torch.inference_mode():
        sample = before({"image": scan})
        sample["label"] = sliding_window_inference(
            sample["image"][None], (WINDOW,) * 3, 1, answer, overlap=float(overlap), mode="gaussian"
        )[0]
        after(sample)
    print(json.dumps({}))


if __name__ == "__main__":
    main()
