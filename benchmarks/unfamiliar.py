"""How well a trained network's own check tells scans that are unlike its training: other organs, damage, wrong units.

    python -m benchmarks.unfamiliar PROJECT... --others FOLDER... [--each 6]

PROJECT: trained here by `medseg run`. Its held-out scans are what must not be flagged; the same scans turned, flipped,
cropped, clipped, inverted, drowned in noise and under wrong units, and the scans of each FOLDER under every modality
that the model knows, are what must. A FOLDER whose scans the model was trained on belongs in no such list. Prints a
table: scans, share flagged or refused, area under the ROC curve against the held-out ones, what told; and what the
check costs beside a prediction. $MEDSEG_WORKERS processes; some minutes a project of small scans.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import torch

from model.network.config import rows_of
from pipelines import params
from pipelines.evaluation import tables
from pipelines.params.quality_bounds import Quality
from pipelines.release.record import FAMILIARITY
from pipelines.scans import manifest, nifti, scan_files
from pipelines.scans.manifest import TEST, Row
from pipelines.scans.modalities import in_hu
from pipelines.scans.volume import VolumeError
from pipelines.serving import bottleneck, familiarity, references
from pipelines.serving.appearance import appearance
from pipelines.serving.conditions import Conditions
from pipelines.serving.familiarity import NETWORK, Familiarity
from pipelines.serving.preparing import Prepared, prepared
from pipelines.serving.scan_search import find_scans
from pipelines.serving.segmenter import Segmenter
from pipelines.work import project
from pipelines.work.cores import workers
from pipelines.work.memory import GIB

REFUSED = familiarity.MOST  # the score of a scan that is refused before it is looked at
HELD_OUT = "held-out"
Spoilt = tuple[str, np.ndarray, np.ndarray]


@dataclass
class Kind:
    """Scans of one kind: their scores, and what told."""

    scores: list[float] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Task:
    """A held-out scan, as it is and, with a `number`, under all damage; or one file of another kind."""

    title: str
    row: Row | None = None
    number: int | None = None
    file: Path | None = None
    modality: str | None = None


@dataclass(frozen=True)
class Check:
    """A project's network and what it knows of its training scans."""

    segmenter: Segmenter
    known: Familiarity
    bounds: Quality

    def score(self, files: dict[str, Path], modality: str | None = None) -> tuple[float, list[str]]:
        """And what told. The network is not asked where the scan's looks suffice."""
        try:
            scan = prepared(self.segmenter.plan, files, modality, self.bounds)
        except VolumeError as error:
            return REFUSED, [f"refused: {str(error).partition(':')[0][:24]}"]
        look = appearance(scan.image, scan.modalities, scan.geometry)
        judged = self.known.judged(scan.source, look)
        if not judged.unfamiliar:
            judged = self.known.judged(scan.source, {**look, NETWORK: features(self.segmenter, scan)})
        return judged.score or 0.0, sorted({_group(reason, scan.modalities) for reason in judged.reasons})


def scored(task: Task) -> list[tuple[str, float, list[str]]]:
    """Title, score, what told. In a process of its own."""
    check = check_here()
    if task.file:
        return [(task.title, *check.score({"": task.file}, task.modality))]
    assert task.row
    if task.number is None:
        return [(task.title, *check.score(files_of(task.row)))]
    with TemporaryDirectory() as scratch:
        spoiled = spoilt(task.row, Path(scratch), task.number)
        return [(f"{task.title}, {what}", *check.score(files)) for what, files in spoiled]


@cache
def check_here() -> Check:
    torch.set_num_threads(1)
    settings = params.load()
    conditions = Conditions.of_here(settings.evaluate.overlap, tuple(settings.evaluate.flips))
    return Check(Segmenter.load(project.TRAINED, conditions), known_here(conditions), settings.ingest.quality)


def _group(reason: str, modalities: Sequence[str]) -> str:
    told = reason.partition(":")[0]
    return next((told.removesuffix(f" of {name}") for name in modalities if told.endswith(f" of {name}")), told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", nargs="+", type=Path, metavar="PROJECT")
    parser.add_argument("--others", nargs="*", default=[], type=Path, metavar="FOLDER")
    parser.add_argument("--each", type=int, default=6, help="scans of a kind")
    told = parser.parse_args()
    others = [folder.resolve() for folder in told.others]
    for folder in [each.resolve() for each in told.projects]:
        os.chdir(folder)
        check_here.cache_clear()
        report(folder.name, *measured(others, told.each))


def measured(others: Sequence[Path], each: int) -> tuple[Kind, dict[str, Kind], str]:
    """Of the project here: held-out scans, the others by kind, and what the check costs."""
    check = check_here()  # before the processes: they have it from this one
    held_out = [row for row in manifest.usable(manifest.read()) if row.split == TEST and row.annotated]
    by_source = {row.source: [r for r in held_out if r.source == row.source][:each] for row in held_out}
    tasks = [Task(HELD_OUT, row) for row in held_out]
    tasks += [Task(row.source, row, n) for rows in by_source.values() for n, row in enumerate(rows)]
    for folder in others:
        for scan in list(find_scans(folder).values())[:each]:
            file = next(iter(scan.values()))
            tasks += [
                Task(f"{folder.name} as {name}", file=file, modality=name) for name in check.segmenter.plan.modalities
            ]
    kinds: dict[str, Kind] = {}
    with ProcessPoolExecutor(workers(), get_context("fork")) as pool:
        for title, score, told in chain.from_iterable(pool.map(scored, tasks)):
            kind = kinds.setdefault(title, Kind())
            kind.scores.append(score)
            kind.told.update(told)
    return kinds.pop(HELD_OUT), kinds, costs(check, [rows[0] for rows in by_source.values()])


def known_here(conditions: Conditions) -> Familiarity:
    """What stage `evaluate` left, or would."""
    if (file := project.EVALUATION / FAMILIARITY).is_file():
        return familiarity.read(file)
    scores = tables.read(project.EVALUATION / tables.PARQUET)
    return references.of_training(project.TRAINED, conditions, 4 * GIB, 200, scores)


def files_of(row: Row) -> dict[str, Path]:
    return {image.role: scan_files.volume_at(image.path) for image in row.images}


def spoilt(row: Row, folder: Path, number: int) -> Iterator[tuple[str, dict[str, Path]]]:
    """A held-out scan under what may happen to it on its way; all its channels alike."""
    kept = {name: nifti.load(file) for name, file in files_of(row).items()}
    made: dict[str, dict[str, Path]] = {}
    for name, image in kept.items():
        rng = np.random.default_rng(number)
        spoiled = damage(np.asarray(image.data, np.float32), image.affine, in_hu(name), rng)
        for kind, (what, array, affine) in enumerate(spoiled):
            path = folder / f"{number}-{kind}-{name}.nii"
            nib.save(nib.Nifti1Image(np.ascontiguousarray(array, np.float32), affine), path)
            made.setdefault(what, {})[name] = path
    for what, files in made.items():
        yield what, files
        for path in files.values():
            path.unlink()


def damage(scan: np.ndarray, affine: np.ndarray, hounsfield: bool, rng: np.random.Generator) -> Iterator[Spoilt]:
    """(what, voxels, affine)."""
    low, high, deviation = float(scan.min()), float(scan.max()), float(scan.std())
    yield "spacing in the wrong unit (/10)", scan, affine @ np.diag([0.1, 0.1, 0.1, 1])
    yield "spacing three times too large", scan, affine @ np.diag([3, 3, 3, 1])
    yield "one axis' spacing doubled", scan, affine @ np.diag([1, 1, 2, 1])
    if hounsfield:
        yield "HU without their intercept", scan + 1024, affine
        yield "HU in thousands", scan / 1000, affine
        yield "windowed to 8 bits", (scan.clip(-160, 240) + 160) / 400 * 255, affine
    yield "inverted", high + low - scan, affine
    for share in (50, 75, 90):
        yield f"clipped at its percentile {share}", np.minimum(scan, np.percentile(scan, share)), affine
    for axis, name in enumerate(("left to right", "back to front", "head to foot")):
        yield f"flipped {name}", np.flip(scan, axis), affine
    yield "first two axes exchanged", np.swapaxes(scan, 0, 1), affine
    yield "noise alone", rng.normal(100, 20, scan.shape), affine
    yield "noise of half its deviation added", scan + rng.normal(0, deviation / 2, scan.shape), affine
    half = np.arange(scan.shape[1])[None, :, None] < scan.shape[1] // 2
    yield "half of it blank", np.where(half, scan, low), affine
    yield "an eighth of it alone", scan[tuple(slice(0, size // 2 + 1) for size in scan.shape)], affine
    yield "thresholded", np.where(scan > np.percentile(scan, 60), high, low), affine


def features(segmenter: Segmenter, scan: Prepared) -> np.ndarray:
    return bottleneck.mean_of(
        segmenter.network,
        torch.from_numpy(scan.image),
        torch.tensor(rows_of(scan.modalities, segmenter.network.config.modalities)),
        segmenter.plan.sources[scan.source].spacing_mm,
        segmenter.card.patch_size[scan.source],
        segmenter.overlap,
        segmenter.precision,
        segmenter.flips,
    )


def costs(check: Check, rows: Sequence[Row]) -> str:
    """CPU time of the check beside that of reading and segmenting, of one scan of each source, the best of 5."""
    found = []
    for row in rows:
        alone, whole = [], []
        for _ in range(5):
            began = time.process_time()
            scan = prepared(check.segmenter.plan, files_of(row), None, check.bounds)
            said = check.segmenter.segment(scan.image, scan.modalities, scan.source, scan.geometry)
            between = time.process_time()
            look = {**appearance(scan.image, scan.modalities, scan.geometry), NETWORK: said.bottleneck}
            check.known.judged(scan.source, look)
            alone.append(time.process_time() - between)
            whole.append(between - began)
        shown = f"{min(alone) * 1e3:.1f} ms beside {min(whole) * 1e3:.0f} ms ({min(alone) / min(whole):.1%})"
        found.append(f"{row.source} {'x'.join(map(str, row.shape))}: {shown}")
    return "; ".join(found)


def report(name: str, familiar: Kind, kinds: dict[str, Kind], cost: str) -> None:
    flagged = sum(score > 1 for score in familiar.scores)
    every = [score for kind in kinds.values() for score in kind.scores]
    print(f"\n## {name}\n")
    print(f"Held-out scans flagged: {flagged} of {len(familiar.scores)}; highest score {max(familiar.scores):.2f}.")
    print(
        f"Check: {cost}.\n\n| kind | scans | flagged | AUROC | lowest score | told by |\n|---|---:|---:|---:|---:|---|"
    )
    for title, kind in kinds.items():
        print(line(title, kind.scores, familiar.scores, ", ".join(f"{k} {n}" for k, n in kind.told.most_common(4))))
    print(line("all", every, familiar.scores, ""), flush=True)


def line(title: str, scores: Sequence[float], familiar: Sequence[float], told: str) -> str:
    share = np.mean(np.asarray(scores) > 1)
    return f"| {title} | {len(scores)} | {share:.0%} | {auroc(familiar, scores):.3f} | {min(scores):.2f} | {told} |"


def auroc(familiar: Sequence[float], others: Sequence[float]) -> float:
    """The share of pairs in which the other one scores higher; a tie counts half."""
    one, other = np.asarray(familiar)[:, None], np.asarray(others)[None]
    return float(np.mean((other > one) + 0.5 * (other == one)))


if __name__ == "__main__":
    main()
