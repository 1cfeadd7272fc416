"""What pretraining brings: its loss and probe within a budget of CPU minutes, then fine-tuning on few labels.

Run     python -m benchmarks.pretraining --data DIR [--minutes 20] [--share 0.1] [--tune-minutes 5] [--seeds 0 1 2]
        taskset -c 0 gives it one core; with the defaults about an hour. --encoder DIR: fine-tune from that one
Prints  the curve: loss over the baseline that knows the mean of each hidden cell, Dice of a linear probe, first of a
        random encoder; then, a line a seed, held-out Dice of the hippocampus, trained on `share` of its labelled
        training cases for `tune-minutes` CPU minutes, from random weights and from the encoder; last both means.

Scans are ingested, de-identified and preprocessed by the stages themselves; profiles `pretrained` and `hippocampus` are
the recipes. The peer of the fine-tuned network is the same network with the same recipe from random weights.
"""

import argparse
import base64
import hashlib
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch

from benchmarks.accuracy import TIMED_STEPS, evaluate, make_project, train
from model import weights
from model.weights_file import ENCODER
from pipelines import params
from pipelines.params import profiles
from pipelines.scans.manifest import TRAIN, VALIDATION
from pipelines.stages import pretrain
from pipelines.stages import train as training
from pipelines.training import allocators
from pipelines.training.rank import Learning
from pipelines.work import project

SOURCE = "msd"
STARTS = ("random", "pretrained")
POINTS = 4  # of the curve, beside that of the random encoder


def main() -> None:
    arguments = parse_arguments()
    if any(os.environ.get(key) != value for key, value in allocators.SETTINGS.items()):
        command = [sys.executable, "-m", "benchmarks.pretraining", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **allocators.SETTINGS, "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    repository = project.root()
    recipes = {name: profiles.settings(name) for name in ("pretrained", "hippocampus")}
    kept = arguments.encoder.resolve() if arguments.encoder else None
    with tempfile.TemporaryDirectory() as scratch:
        key = Path(scratch) / "key"
        key.write_bytes(base64.b64encode(secrets.token_bytes(32)))
        key.chmod(0o600)
        os.environ.setdefault("MEDSEG_KEY_FILE", str(key))
        folder = Path(scratch) / "project"
        folder.mkdir()
        make_project(folder, repository, "pretrained", arguments.data.resolve())
        os.chdir(folder)
        encoder = kept
        if not kept and "pretrained" in arguments.starts:
            encoder = pretrained(recipes["pretrained"], arguments.minutes, arguments.save)
        compare(recipes["hippocampus"], encoder, arguments)
        os.chdir(repository)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sources' folders")
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU time of pretraining")
    parser.add_argument("--share", type=float, default=0.1, help="of the labelled training cases")
    parser.add_argument("--tune-minutes", type=float, default=5.0, help="CPU time of each fine-tuning")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--starts", choices=STARTS, nargs="+", default=STARTS, help="so that two cores can share them")
    parser.add_argument("--encoder", type=Path, help="folder of an encoder, instead of pretraining")
    parser.add_argument("--save", type=Path, help="folder to keep the encoder in")
    return parser.parse_args()


def pretrained(settings: params.Params, minutes: float, save: Path | None) -> Path:
    """Pretrain for a time; the folder of the encoder."""
    job = pretrain.prepare(settings)
    steps = steps_in(job, minutes)
    job = replace(job, fit=replace(job.fit, validate_every=max(1, steps // POINTS)))
    state, seconds = train(job, steps, watched=True)
    print(f"pretraining: {steps} steps, {seconds / 60:.2f} CPU minutes, scans {job.card.scans}")
    for point in state.curve:
        told = ", ".join(f"{name} {value:.3f}" for name, value in point.items() if name != "step")
        print(
            f"  step {point['step']}: loss over baseline {1 - point['validation_explained.mean']:.3f}; {told}",
            flush=True,
        )
    folder = (save or Path("encoder")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: each for name, each in state.final_weights().items() if name.startswith(weights.PRETRAINED)}
    weights.export(folder, tensors, job.card, ENCODER)
    return folder


def compare(settings: params.Params, encoder: Path | None, arguments: argparse.Namespace) -> None:
    """Dice from random weights and from the encoder, at the same CPU time."""
    found: dict[str, list[float]] = {name: [] for name in arguments.starts}
    for seed in arguments.seeds:
        for name in arguments.starts:
            job = few_labels(settings, seed, arguments.share, encoder if name == "pretrained" else None)
            steps = steps_in(job, arguments.tune_minutes)
            state, seconds = train(job, steps)
            dice = evaluate(state, job, settings.evaluate.overlap, SOURCE)["mean_dice"]
            found[name].append(float(dice))
            count = len(job.stream.by_source[SOURCE])
            print(
                f"seed {seed}, {name}: {count} labelled cases, {steps} steps, {seconds / 60:.2f} CPU minutes, "
                f"Dice {dice:.4f}",
                flush=True,
            )
    for name, values in found.items():
        if values:
            print(f"mean of {len(values)} seeds, {name}: {mean(values):.4f}")


def few_labels(settings: params.Params, seed: int, share: float, encoder: Path | None) -> Learning:
    """The recipe on a share of the source's labelled training cases, the same for every seed."""
    folder = Path("few")
    (folder / TRAIN).mkdir(parents=True, exist_ok=True)
    (folder / VALIDATION).mkdir(exist_ok=True)
    (folder / "preprocessing.json").write_bytes((project.CASES / "preprocessing.json").read_bytes())
    for path in chosen(sorted((project.CASES / TRAIN).glob(f"{SOURCE}-*.safetensors")), share):
        if not (link := folder / TRAIN / path.name).exists():
            link.symlink_to(path.resolve())
    recipe = settings.train.model_copy(update={"seed": seed, "micro_batch": settings.train.global_batch})
    return replace(training.prepare(settings.model_copy(update={"train": recipe}), folder), encoder=encoder)


def chosen(paths: Sequence[Path], share: float) -> list[Path]:
    """A share of the cases, by a draw of their names."""
    ranked = sorted(paths, key=lambda path: hashlib.sha256(f"few {path.stem}".encode()).hexdigest())
    return ranked[: max(1, round(share * len(ranked)))]


def steps_in(job: Learning, minutes: float) -> int:
    few, more = (train(job, steps)[1] for steps in TIMED_STEPS)
    return round(60 * minutes / (more - few) * (TIMED_STEPS[1] - TIMED_STEPS[0]))


if __name__ == "__main__":
    main()
