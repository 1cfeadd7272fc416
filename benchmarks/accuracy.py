"""Held-out Dice for a budget of CPU minutes on one core: training alone is counted, evaluation is not.

Run     python -m benchmarks.accuracy hippocampus --data DIR [--source msd] [--minutes 10] [--seeds 0 1 2]
        python -m benchmarks.accuracy hippocampus --data DIR --steps 800 --precision float32    # two versions compared
        python -m benchmarks.accuracy multi --data DIR --embedding strided              # the ablation of embeddings
Prints  a line per seed: steps, CPU minutes of training, held-out Dice by source and structure; then the mean.

Takes a profile's recipe as it is; only the number of steps is fitted to the budget, by timing some steps first, and one
core makes a step's patches in one forward pass where they are of one source, which changes no gradient. Scans are
ingested and preprocessed by the pipeline's own stages in a temporary project; its held-out split, its window and
its evaluation on the scans' own grids are used. `--source` keeps the cases of one source.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.embeddings import EMBEDDINGS
from model import weights
from model.data.dataset import SampleStream
from model.engine.checkpoint import Checkpoints
from model.engine.parallelize import PRECISIONS, ParallelNetwork
from model.engine.progress import Report
from model.engine.ranks import Ranks
from model.engine.state import TrainState
from model.engine.trainer import FitConfig, Run, fit
from model.engine.watch import Watch
from model.weights import load_encoder
from pipelines import params
from pipelines.evaluation import cohort
from pipelines.params import profiles
from pipelines.scans import vocabulary
from pipelines.serving.conditions import Conditions
from pipelines.serving.held_out import segment_and_measure
from pipelines.stages.train import prepare
from pipelines.training import allocators
from pipelines.training.rank import Learning
from pipelines.work import project
from pipelines.work.memory import GIB

ALONE = Ranks(0, 1, torch.device("cpu"))
MEMORY_BYTES = 4 * GIB  # of evaluation
TIMED_STEPS = 10, 60  # the difference leaves out what a run costs once
STAGES = ("inventory", "deidentify", "ingest", "plan", "preprocess")


def main() -> None:
    arguments = parse_arguments()
    if any(os.environ.get(key) != value for key, value in allocators.SETTINGS.items()):
        command = [sys.executable, "-m", "benchmarks.accuracy", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **allocators.SETTINGS, "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    repository = project.root()
    settings = profiles.settings(arguments.profile)
    with tempfile.TemporaryDirectory() as scratch:
        make_project(Path(scratch), repository, arguments.profile, arguments.data.resolve())
        os.chdir(scratch)
        means = [run_seed(settings, seed, arguments) for seed in arguments.seeds]
        os.chdir(repository)
    print(f"mean of {len(means)} seeds: {sum(means) / len(means):.4f}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sources' folders")
    parser.add_argument("--source", help="train and evaluate on this source alone")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU time of training")
    parser.add_argument("--steps", type=int, help="as many, whatever they take, instead of a budget")
    parser.add_argument("--precision", choices=PRECISIONS, help="of training, instead of the profile's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--embedding", choices=EMBEDDINGS, help="instead of the network's own")
    return parser.parse_args()


def make_project(folder: Path, repository: Path, profile: str, data: Path) -> None:
    """Scans ingested and preprocessed by the stages themselves."""
    (folder / "dvc.yaml").write_bytes((repository / "dvc.yaml").read_bytes())
    (folder / "params.yaml").write_text(profiles.compose(profile))
    (folder / "data").mkdir()
    (folder / project.RAW).symlink_to(data)
    environment = {**os.environ, "PYTHONPATH": str(repository), "MEDSEG_ROOT": str(folder)}
    for stage in STAGES:
        subprocess.run([sys.executable, "-m", "pipelines", stage], cwd=folder, env=environment, check=True)


def run_seed(settings: params.Params, seed: int, arguments: argparse.Namespace) -> float:
    one_source = arguments.source or len(settings.data.sources) == 1
    micro_batch = settings.train.global_batch if one_source else settings.train.micro_batch
    precision = arguments.precision or settings.train.precision
    changed = {"seed": seed, "micro_batch": micro_batch, "precision": precision}
    recipe = settings.train.model_copy(update=changed)
    job = of_source(prepare(settings.model_copy(update={"train": recipe})), arguments.source)
    steps = arguments.steps or steps_within(job, arguments)
    state, seconds = train(job, steps, arguments.embedding)
    summary = evaluate(state, job, settings.evaluate.overlap, arguments.source)
    print(
        f"seed {seed}: {steps} steps, {seconds / 60:.2f} CPU minutes, mean Dice {summary['mean_dice']:.4f}", flush=True
    )
    for source, structures in summary["by_source"].items():
        print(
            f"  {source}: " + ", ".join(f"{name} {entry['dice']:.3f}" for name, entry in structures.items()), flush=True
        )
    return float(summary["mean_dice"])


def steps_within(job: Learning, arguments: argparse.Namespace) -> int:
    few, more = (train(job, steps, arguments.embedding)[1] for steps in TIMED_STEPS)
    return round(60 * arguments.minutes / (more - few) * (TIMED_STEPS[1] - TIMED_STEPS[0]))


def of_source(job: Learning, source: str | None) -> Learning:
    if source is None:
        return job
    stream = SampleStream(job.stream.by_source[source], job.stream.config)
    return replace(job, stream=stream, validation=[case for case in job.validation if case.record.source == source])


def train(job: Learning, steps: int, embedding: str | None = None, watched: bool = False) -> tuple[TrainState, float]:
    """The trained state, and the CPU seconds of this process for it; `watched`: those of its curve are counted too."""
    torch.manual_seed(job.stream.config.seed)
    network = job.network
    if embedding:
        with torch.device("meta"):
            network.embedding = EMBEDDINGS[embedding](network.config)
    network.to_empty(device="cpu")
    network.init_weights()
    if job.encoder:
        load_encoder(network, job.encoder)
    validation = job.validation if watched else []  # its best point writes a checkpoint
    config: FitConfig = replace(job.fit, steps=steps, warmup_steps=min(job.fit.warmup_steps, steps - 1))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), ALONE, every_s=float("inf"))
        start = time.process_time()
        run = Run(
            parallel=ParallelNetwork(network),
            task=job.task,
            stream=job.stream,
            validation=validation,
            config=config,
            ranks=ALONE,
            report=progress(steps),
            checkpoints=checkpoints,
            watch=Watch(Path(folder), 0),
        )
        state = fit(run)
    return state, time.process_time() - start


def progress(steps: int) -> Report:
    def report(step: int, values: dict[str, float]) -> None:
        if sys.stderr.isatty():
            print(f"\r{step}/{steps} loss {values['loss']:.3f}  ", end="", file=sys.stderr)

    return report


def evaluate(state: TrainState, job: Learning, overlap: float, source: str | None) -> dict[str, Any]:
    """Mean Dice and Dice by source, of what the evaluate stage would measure with these weights."""
    with tempfile.TemporaryDirectory() as folder:
        trained, predictions = Path(folder) / "trained", Path(folder) / "predictions"
        predictions.mkdir()
        trained.mkdir()
        weights.export(trained, state.final_weights(), job.card)
        found = segment_and_measure(trained, Conditions.of_here(overlap, ()), MEMORY_BYTES, predictions)
    if found.left_out:
        raise ValueError(f"scans that cannot be measured: {found.left_out}")
    return cohort.summarise([score for score in found.scores if source in (None, score.source)], vocabulary.here())


if __name__ == "__main__":
    main()
