"""The data path against its peers: patches, augmentation, resampling, a whole cohort, and the loader's wait.

Run     make bench [DATA=DIR]           # about 6 CPU minutes; makes .bench, the peers' environment, first (3 GB)
        python -m benchmarks.data [--data DIR] [--only patch augmentation ...]
Reads   DIR, at any depth: a CT crop `NAME_ct.nii.gz` with its `NAME_ct*seg*.nii.gz`, Task04_Hippocampus
Prints  a row per comparison: our cost, the peer's, their ratio and the ratio aimed at

CPU time of one thread, both sides with an allocator that keeps its memory, each on the same arrays. The scan of
512x512x400 is made of the CT crop: slices interpolated to 0.8 mm, mirrored to size, noise of 10 HU added, clipped and
standardised as the pipeline does it; without a crop it is made up of balls. The cohort is compared over whole
processes: our stages between ingest and train with one worker, nnU-Net's plan_and_preprocess with one process; memory
is the largest process's. The loader's wait needs two cores that are idle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import scans
from benchmarks.engine import Job, fit_config
from benchmarks.peers import PATCH, SEEDS, cold, mean_of_fastest
from model.data import casefile
from model.data.augment import sample_patch
from model.data.dataset import SampleStream, StreamConfig
from model.data.draws import AugmentConfig
from model.engine.checkpoint import Checkpoints
from model.engine.parallelize import ParallelNetwork
from model.engine.ranks import Ranks
from model.engine.trainer import Run, fit
from model.engine.watch import Watch
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from model.tasks.segmentation import Segmentation
from pipelines.cases.resampling import resample
from pipelines.training import allocators

REPOSITORY = Path(__file__).parents[1]
PEERS = REPOSITORY / ".bench" / "bin" / "python"
EVERYTHING = AugmentConfig(
    elastic_probability=1, flip_probability=0.5, gamma=0.3, noise=0.1, blur_mm=1, blur_probability=1,
    low_resolution=1, low_resolution_probability=1,
)  # fmt: skip
SPACING_MM = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Row:
    what: str
    ours: float
    peer: str
    its: float
    aim: str
    unit: str = "ms"


def main() -> None:
    arguments = parse_arguments()
    if any(os.environ.get(key) != value for key, value in allocators.SETTINGS.items()):
        command = [sys.executable, "-m", "benchmarks.data", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **allocators.SETTINGS, "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    parts = {
        "patch": patch,
        "augmentation": augmentation,
        "resampling": resampling,
        "cohort": partial(whole_cohort, arguments.data),
        "loader": loader,
    }
    print("| | ours | peer | its | ours / its | aim |\n|---|---:|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        scans.write(Path(scratch), arguments.data)
        for name in arguments.only or parts:
            for row in parts[name](Path(scratch)):
                cells = f"| {row.what} | {row.ours:.4g} {row.unit} | {row.peer} | {row.its:.4g} {row.unit} |"
                print(f"{cells} {row.ours / row.its:.2f} | {row.aim} |", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real scans; without it, made-up ones and no cohort")
    parser.add_argument("--only", nargs="+", choices=("patch", "augmentation", "resampling", "cohort", "loader"))
    return parser.parse_args()


def peers(task: str, folder: Path) -> dict[str, float]:
    return result_of([PEERS, REPOSITORY / "benchmarks" / "peers.py", task, folder])


def result_of(command: Sequence[str | Path]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def patch(folder: Path) -> Iterator[Row]:
    """Patches of 128^3 with their label, float32, at random places of a case file."""
    path = scans.case_file(folder)
    boxes = [tuple(slice(low, high) for low, high in box) for box in np.load(folder / "boxes.npy").tolist()]
    case = casefile.read(path)

    def read(case: casefile.Case, box: tuple[slice, ...]) -> None:
        torch.from_numpy(case.image[(slice(None), *box)]), torch.from_numpy(case.label[box])

    warm = mean_of_fastest(partial(read, case), boxes)
    del case
    theirs = peers("patch", folder)
    yield Row("patch, warm", warm, "nnU-Net", theirs["warm"], "0.5")
    yield Row(
        "patch, cold", cold(lambda box: read(casefile.read(path), box), boxes, [path]), "nnU-Net", theirs["cold"], "0.5"
    )
    yield Row("file of 512x512x400", path.stat().st_size / 1e6, "nnU-Net", theirs["bytes"] / 1e6, "0.6", "MB")


def augmentation(folder: Path) -> Iterator[Row]:
    """Affine, elastic and every change of intensity, on 128^3 with its label, out of a block in memory."""
    image, label = np.load(folder / "block.npy"), np.load(folder / "block_label.npy")
    centre = [n / 2 for n in label.shape]

    def ours(seed: int) -> None:
        sample_patch(image, label, centre, PATCH, SPACING_MM, EVERYTHING, np.random.default_rng(seed))

    volume, mask = torch.from_numpy(image)[None], torch.from_numpy(label).float()[None, None]
    turned = torch.tensor([[[0.6, 0.2, 0.0, 0.0], [-0.2, 0.6, 0.1, 0.0], [0.0, -0.1, 0.6, 0.0]]])

    def bare(_: int) -> None:
        grid = F.affine_grid(turned, [1, 1, *PATCH], align_corners=False)
        F.grid_sample(volume, grid, align_corners=False)
        F.grid_sample(mask, grid, mode="nearest", align_corners=False)

    cost, theirs = mean_of_fastest(ours, SEEDS), peers("augmentation", folder)
    for peer, its in theirs.items():
        yield Row("full augmentation of 128^3", cost, peer, its, "0.33")
    yield Row("full augmentation of 128^3", cost, "affine_grid + grid_sample", mean_of_fastest(bare, SEEDS), "2")


def resampling(folder: Path) -> Iterator[Row]:
    """256x256x200 by 1.25 per axis."""
    from scipy.ndimage import zoom

    volume = np.load(folder / "volume.npy")
    d, h, w = (round(1.25 * n) for n in volume.shape)
    cubic, linear = (mean_of_fastest(partial(resample, volume, (d, h, w)), [order]) for order in (3, 1))
    theirs = peers("resampling", folder)
    yield Row("resampling, order 3", cubic, "nnU-Net", theirs["nnU-Net"], "0.083")
    yield Row("resampling, order 1", linear, "SimpleITK", theirs["SimpleITK"], "1")
    small = volume[:40, :48, :60]
    expected = zoom(small.astype(np.float64), 1.25, order=3, mode="nearest", grid_mode=True)
    difference = np.abs(resample(small, (50, 60, 75), 3) - expected).max() / np.ptp(small)
    print(f"resampling, order 3: differs from scipy's spline by {difference:.1e} of the range", file=sys.stderr)


def whole_cohort(data: Path | None, folder: Path) -> Iterator[Row]:
    """Fingerprint, plan and preprocessing of the hippocampus cases."""
    found = sorted(data.rglob("Task04_Hippocampus")) if data else []
    if not found:
        print("the cohort is left out: --data names no folder with Task04_Hippocampus", file=sys.stderr)
        return
    costs = result_of([sys.executable, "-m", "benchmarks.cohort", folder, found[0], PEERS.parent])
    ours, theirs = costs["ours"], costs["nnU-Net"]
    yield Row("cohort, CPU time", ours["seconds"], "nnU-Net", theirs["seconds"], "0.33", "s")
    yield Row("cohort, peak memory", ours["memory_mb"], "nnU-Net", theirs["memory_mb"], "0.33", "MB")


def loader(folder: Path) -> Iterator[Row]:
    """How long a `tiny` step waits for its batch, while one loader process reads and augments in full."""
    case = casefile.read(scans.case_file(folder))
    waits: list[float] = []
    job = Job(folder / "run", "tiny", (64, 64, 64), micro_batch=2, steps=60, world=1)
    stream = StreamConfig((1,), {"spleen": 1}, {"made-up": job.patch}, job.micro_batch, 0, 0.5, 0.0, EVERYTHING)

    def report(_step: int, values: dict[str, float]) -> None:
        waits.append(values["data_wait_fraction"])

    network = ParallelNetwork(MedSegFormer(PRESETS[job.preset], num_classes=2))
    ranks = Ranks(0, 1, torch.device("cpu"), loader_workers=1)
    checkpoints, watch = Checkpoints(job.folder, ranks, every_s=1e9), Watch(job.folder, 0)
    with torch.enable_grad():
        task = Segmentation(stream)
        samples = SampleStream([case], stream)
        fit(Run(network, task, samples, [], fit_config(job), ranks, report, checkpoints, watch))
    waited: Any = np.mean(waits[1:])  # without the first report, which has the start of the loader's process
    yield Row("loader's wait, of a step", waited, "the step", 1.0, "0.03", "")


if __name__ == "__main__":
    main()
