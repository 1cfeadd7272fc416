"""From raw scans to training cases, for benchmarks/data.py: our stages and nnU-Net's commands as whole processes.

Run     python -m benchmarks.cohort FOLDER Task04_Hippocampus .bench/bin      # by benchmarks/data.py
Prints  JSON: CPU seconds and megabytes of ours, of nnU-Net

A process of its own, and a small one: Linux counts what a process had before it became another program as that
program's memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ruamel.yaml import YAML

from pipelines.work import project

REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Cost:
    """CPU time of a command and all that it started; memory of the largest of these processes."""

    seconds: float
    memory_mb: float


def main() -> None:
    folder, task, programs = (Path(argument) for argument in sys.argv[1:])
    costs = {"ours": ours(folder / "ours", task), "nnU-Net": nnunet(folder / "theirs", task, programs)}
    print(json.dumps({name: asdict(cost) for name, cost in costs.items()}))


def ours(folder: Path, task: Path) -> Cost:
    """The stages of dvc.yaml between `ingest` and `train`, one worker. `task`: a folder as of the decathlon."""
    (folder / "data").mkdir(parents=True)
    (folder / "raw").mkdir()
    (folder / "raw" / task.name).symlink_to(task.resolve())
    (folder / project.RAW).symlink_to(folder / "raw")
    (folder / "dvc.yaml").write_bytes((REPOSITORY / "dvc.yaml").read_bytes())
    (folder / "params.yaml").write_bytes(_parameters("hippocampus"))
    stages = list(YAML(typ="safe").load(folder / "dvc.yaml")["stages"])
    before, counted = stages[: stages.index("ingest") + 1], stages[stages.index("ingest") + 1 : stages.index("train")]
    environment = {"PYTHONPATH": str(REPOSITORY), "MEDSEG_ROOT": str(folder), "MEDSEG_WORKERS": "1"}
    environment["MEDSEG_LINKED"] = str(task.resolve())
    python = [sys.executable, "-m", "pipelines"]
    for stage in before:
        measured([*python, stage], folder, environment)
    return _sum([measured([*python, stage], folder, environment) for stage in counted])


def _parameters(profile: str) -> bytes:
    compose = f"from pipelines.params import profiles; print(profiles.compose({profile!r}))"
    return subprocess.run([sys.executable, "-c", compose], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True).stdout


def nnunet(folder: Path, task: Path, programs: Path) -> Cost:
    """Fingerprint, plan and preprocessing of `3d_fullres`, one process. `programs`: where its commands lie."""
    raw = folder / "raw" / "Dataset004_Hippocampus"
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    labels = sorted((task / "labelsTr").glob("[!.]*.nii.gz"))
    for label in labels:
        (raw / "labelsTr" / label.name).symlink_to(label.resolve())
        name = label.name.replace(".nii.gz", "_0000.nii.gz")
        (raw / "imagesTr" / name).symlink_to((task / "imagesTr" / label.name).resolve())
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": len(labels),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    names = ("raw", "preprocessed", "results")
    environment = {f"nnUNet_{name}": str(folder / name) for name in names} | {
        "PATH": f"{programs}:{os.environ['PATH']}"
    }
    arguments = ["-d", "4", "-c", "3d_fullres", "-npfp", "1", "-np", "1", "--no_pbar"]
    return measured([str(programs / "nnUNetv2_plan_and_preprocess"), *arguments], folder, environment)


def measured(command: Sequence[str], folder: Path, environment: dict[str, str]) -> Cost:
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    complaint = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed: {complaint[-2000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _sum(costs: Sequence[Cost]) -> Cost:
    """Of commands that run one after the other."""
    return Cost(sum(cost.seconds for cost in costs), max(cost.memory_mb for cost in costs))


if __name__ == "__main__":
    main()
