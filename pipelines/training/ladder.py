"""A ladder of sizes: small networks first, at equal epochs, each of which must beat the one before; then the seeds.

    steps = rungs(["small", "base", "large", "xl"], seeds=3)     four sizes, then two more seeds of the last
    costs = [priced(rung, ...) for rung in steps]                by estimate, in days and GPU-hours
    verdict(smaller, larger)                                     does size pay? decides whether the next rung starts

The record, .medseg/plan-run/record.json with a table beside it, keeps the end of each rung's validation curve. A rung
that it holds for the same parameters, code and scans is not trained again.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from model.network.config import PRESETS
from pipelines.params import profiles
from pipelines.work import code, project
from pipelines.work.digests import sha256_of
from pipelines.work.writing import replacing, write_json

SCORE = "validation_dice.mean"
PLACED = {"strategy", "micro_batch", "activation_checkpointing"}
POINTS = 5  # of the validation curve's end: what a rung came to, and how much it still moves


@dataclass(frozen=True)
class Rung:
    """`changes`: of the parameters, as `medseg run --set` takes them. `repeats`: the same size with another seed."""

    name: str
    preset: str
    seed: int
    changes: tuple[str, ...]
    repeats: bool = False


@dataclass(frozen=True)
class Cost:
    """`way`: how it would be trained, or why it does not fit."""

    fits: bool
    way: str
    pretrain_days: float
    train_days: float
    gpu_hours: float

    @property
    def days(self) -> float:
        return self.pretrain_days + self.train_days


@dataclass(frozen=True)
class CurveEnd:
    """The last points of a validation curve, Dice in [0, 1]."""

    points: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.points)

    @property
    def noise(self) -> float:
        """Between two validations of almost the same weights."""
        return stdev(self.points)


def rungs(presets: Sequence[str], seeds: int, changes: Sequence[str] = (), seed: int = 0) -> list[Rung]:
    """Each preset once with `seed`, the smallest first, and the last with `seeds` seeds. Raises ValueError."""
    if unknown := [name for name in presets if name not in PRESETS]:
        raise ValueError(f"--presets: no preset {unknown[0]!r}; known: {', '.join(PRESETS)}")
    order = list(PRESETS)
    if list(presets) != sorted(set(presets), key=order.index):
        raise ValueError(f"--presets {','.join(presets)} must grow, each named once, in this order: {', '.join(order)}")

    def rung(preset: str, number: int) -> Rung:
        own = (f"model.preset={preset}", f"train.seed={seed + number}")
        return Rung(f"{preset}, seed {seed + number}", preset, seed + number, (*changes, *own), number > 0)

    return [*(rung(preset, 0) for preset in presets), *(rung(presets[-1], number) for number in range(1, seeds))]


def planned(presets: Sequence[str], seeds: int, profile: str | None, changes: Sequence[str]) -> list[Rung]:
    """`rungs` with the seed that the parameters say. Raises ValueError, also for changes that are none."""
    return rungs(presets, seeds, changes, profiles.outlook(profile, changes).train.seed)


def recorded(ladder: Sequence[Rung], profile: str | None) -> list[dict[str, Any]]:
    """What is known of each rung: `name`, `mean` and `verdict`, None where it is not done."""
    record, rows = Record(folder()), []
    for rung in ladder:
        known = record.rungs[rung.name] if record.end(rung, key_of(rung, profile)) else {}
        rows.append({"name": rung.name, "mean": known.get("mean"), "verdict": known.get("verdict")})
    return rows


def verdict(smaller: CurveEnd, larger: CurveEnd) -> tuple[bool, str]:
    """Whether size paid: the mean of the last points must have grown by more than they differ among themselves.

    Their standard deviation, the larger one of both curves, is what two validations differ by without any reason.
    """
    gain, noise = larger.mean - smaller.mean, max(smaller.noise, larger.noise)
    told = f"Dice {smaller.mean:.4f} -> {larger.mean:.4f}, a gain of {gain:+.4f} against noise of {noise:.4f}"
    return gain > noise, told


def curve_end(history: Path) -> CurveEnd:
    """Of a stage's history.csv. Raises ValueError if there are too few points to know their noise."""
    with history.open(newline="") as file:
        points = [float(row[SCORE]) for row in csv.DictReader(file) if row.get(SCORE)]
    points = [point for point in points if point == point]  # NaN: nothing was there to score
    if len(points) < 2:
        raise ValueError(
            f"{history} has {len(points)} points of {SCORE}, and a rung is judged by 2 or more: lower "
            "train.validate_every, or hold patients out for validation (data.validation_fraction)"
        )
    return CurveEnd(tuple(points[-POINTS:]))


class Record:
    """What the rungs came to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / "record.json"
        self.rungs: dict[str, dict[str, Any]] = json.loads(file.read_text())["rungs"] if file.is_file() else {}

    def end(self, rung: Rung, key: str) -> CurveEnd | None:
        """If the rung is done for the same `key`."""
        known = self.rungs.get(rung.name)
        return CurveEnd(tuple(known["points"])) if known and known["key"] == key else None

    def add(self, rung: Rung, key: str, end: CurveEnd, result: Mapping[str, Any]) -> None:
        self.rungs[rung.name] = {
            **asdict(rung), "key": key, "points": end.points, "mean": end.mean, "noise": end.noise, **result,
        }  # fmt: skip
        self._write()

    def judge(self, rung: Rung, told: str) -> None:
        self.rungs[rung.name]["verdict"] = told
        self._write()

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "record.json", {"score": SCORE, "rungs": self.rungs})
        rows = [
            f"| {name} | {each['mean']:.4f} | {each['noise']:.4f} | {each.get('verdict', '')} |"
            for name, each in self.rungs.items()
        ]
        head = ["| rung | Dice, mean of the last points | noise | against the one before |", "|---|---:|---:|---|"]
        with replacing(self.folder / "record.md") as temporary:
            temporary.write_text("\n".join([*head, *rows]) + "\n")


def climb(
    ladder: Sequence[Rung],
    train: Callable[[Rung], tuple[CurveEnd, dict[str, Any]]],
    key_of: Callable[[Rung], str],
    record: Record,
    go_on: bool = False,
    tell: Callable[[str], None] = print,
) -> None:
    """Train what the record does not hold, in order. Raises ValueError at a size that did not pay, unless `go_on`."""
    before: CurveEnd | None = None
    for rung in ladder:
        end = record.end(rung, key_of(rung))
        if end is None:
            tell(f"{rung.name}: starts")
            end, result = train(rung)
            record.add(rung, key_of(rung), end, result)  # its scans are known now
        else:
            tell(f"{rung.name}: done before")
        if rung.repeats:
            continue
        if before is not None:
            paid, told = verdict(before, end)
            record.judge(rung, told)
            tell(f"{rung.name}: {told}")
            if not paid and not go_on:
                raise ValueError(
                    f"{rung.name} is not better than the size before it by more than noise ({told}): what is larger "
                    "still would be no better. Look at its data, learning rate and steps, or go on with --go-on"
                )
        before = end


def key_of(rung: Rung, profile: str | None) -> str:
    """What a rung's result depends on: parameters, the code that trains, and the scans that are known.

    How the GPUs share the work is no part of it: the certificate of each rung chooses that.
    """
    settings = profiles.outlook(profile, rung.changes)
    scans = project.root() / project.MANIFEST
    parts = [
        settings.model_dump_json(exclude={"train": PLACED, "pretrain": PLACED}),
        *(code.of_stage(stage) for stage in ("pretrain", "train")),
        sha256_of(scans) if scans.is_file() else "",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def folder() -> Path:
    return project.state_folder() / "plan-run"
