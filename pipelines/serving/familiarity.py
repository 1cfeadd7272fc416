"""Is a scan like those that a network was trained on? If not, what of it is not, with value and bound.

    known = Familiarity.of(looks, ...)              of training scans; written by stage `evaluate`
    told = known.judged(source, look)               told.score, told.reasons; above 1 the scan is unfamiliar

A look is numbers in groups: what pipelines/serving/appearance.py sees, and NETWORK, the mean features of the encoder's
deepest level (pipelines/serving/bottleneck.py). In each group a scan is as far off as its nearest training scans are
(Sun et al. 2022), and may be as far as these are from each other, patient by patient. Imports no torch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipelines.serving import appearance
from pipelines.work import code
from pipelines.work.writing import replacing

NETWORK, SCALE = "network", "scale"
NEAREST = 3
FEWEST = 5  # patients: below, other sources say how much patients differ; without such nothing is said
MOST = 1000.0  # above, a score says nothing more
WIDER = 5  # patients: of so many a bound is twice as wide as of very many
DRAWS = 10
TAIL = 3.43  # a tail that halves and halves again: from the 90th percentile to where 1 of 500 lies
Look = Mapping[str, np.ndarray]
# Deviations below these are no deviations: training scans that are all alike must not make every other one unfamiliar.
# A tenth of a millimetre in one, a sixth of the field of view, a twentieth of a standard deviation of the image.
_FLOOR = {appearance.VOXEL: 0.1, appearance.FIELD: 0.15}
_FLOOR_ELSE = 0.05
_MEANT = {
    appearance.VOXEL: "voxel size",
    appearance.FIELD: "field of view",
    appearance.INTENSITY: "intensities",
    appearance.GRAIN: "grain",
    appearance.PLACES: "what is bright where",
    NETWORK: "what the network sees",
}


class OtherCodeError(ValueError):
    """Of a file that cannot be used here."""


@dataclass(frozen=True)
class Judged:
    """`score`: the largest distance over its bound; None if nothing is known of such scans, which `reasons` says."""

    score: float | None
    reasons: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        return [f"unfamiliar scan: {reason}" for reason in self.reasons] if self.unfamiliar else []

    @property
    def unfamiliar(self) -> bool:
        return self.score is not None and self.score > 1

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "bound": 1.0, "unfamiliar": self.unfamiliar}


@dataclass(frozen=True)
class Rows:
    """One group of some scans (n, F), and whose they are."""

    numbers: np.ndarray
    patients: np.ndarray

    @property
    def count(self) -> int:
        return len(np.unique(self.patients))

    def deviation(self, group: str) -> np.ndarray:
        """(F,), never too small to divide by."""
        kind, found = group.partition(".")[0], self.numbers.std(axis=0)
        floor = 0.2 * float(np.median(found)) if kind == NETWORK else _FLOOR.get(kind, _FLOOR_ELSE)
        return np.maximum(found, max(floor, 1e-6))


@dataclass(frozen=True)
class Known:
    """One group of one source. `seen` (n, F): of the training scans; `scale` (F,): a deviation of each number; `bound`:
    on the distance from them."""

    group: str
    seen: np.ndarray
    scale: np.ndarray
    bound: float = 0.0

    @classmethod
    def of(cls, group: str, own: Rows, lenders: Sequence[Rows] = ()) -> Self:
        """The bound: the largest distance of a training scan from those of other patients, or what the bulk of these
        distances lets expect of one in 500, if that is more; wider, the fewer patients there are.

        `lenders`: the same group of other sources, for one of too few patients. Theirs differ by so much, seen from as
        few of them; so may its own.
        """
        scale = np.max([each.deviation(group) for each in (own, *lenders)], axis=0)
        made = cls(group, own.numbers, scale)
        apart = np.concatenate([_as_few(group, each, scale, own.count) for each in lenders]) if lenders else np.asarray(
            [made.distance(row, own.patients != whose) for row, whose in zip(own.numbers, own.patients, strict=True)]
        )  # fmt: skip
        half, most = np.quantile(apart, (0.5, 0.9))
        bound = (1 + WIDER / own.count) * max(float(apart.max()), float(half + TAIL * (most - half)))
        least = float(np.sqrt(len(scale)))  # a deviation off in every number: where all training scans are alike
        return cls(group, own.numbers, scale, max(bound, least))

    def distance(self, row: np.ndarray, among: np.ndarray | None = None) -> float:
        """Mean over the nearest. `among`: bool (n,), to choose from."""
        apart = np.linalg.norm((self.seen - row) / self.scale, axis=1)
        apart = apart if among is None else apart[among]
        return float(np.sort(apart)[:NEAREST].mean()) if len(apart) else 0.0

    def reason(self, row: np.ndarray, score: float) -> str:
        """In words, with the number that is furthest off."""
        kind, _, modality = self.group.partition(".")
        told = f"{_MEANT[kind]}{f' of {modality}' if modality else ''}: {score:.3g} times as far from the "
        told += f"{len(self.seen)} training scans as any may be"
        low, high = self.seen.min(axis=0), self.seen.max(axis=0)
        beyond = np.maximum(low - row, row - high) / self.scale
        words = appearance.names(self.group)
        if not words or beyond.max() <= 0:
            return told
        at = int(beyond.argmax())
        value, least, most = (appearance.shown(self.group, float(each[at])) for each in (row, low, high))
        return f"{told}; {words[at]}: {value:.3g}, training {least:.3g} to {most:.3g}"


def _as_few(group: str, lender: Rows, scale: np.ndarray, count: int) -> np.ndarray:
    """How far a lender's scans are from those of `count` other of its patients, drawn several times."""
    rng, found = np.random.default_rng(0), list[float]()
    for _ in range(DRAWS):
        drawn = np.isin(lender.patients, rng.permutation(np.unique(lender.patients))[:count])
        few = Known(group, lender.numbers[drawn], scale)
        found += [few.distance(row) for row in lender.numbers[~drawn]]
    return np.asarray(found)


@dataclass(frozen=True)
class Familiarity:
    """`sources`: source -> group -> what is known of it. `confidence`: structure -> the lowest that 98 of 100 held-out
    scans reached. `weights_sha256`: whose features the network's are."""

    weights_sha256: str = ""
    sources: Mapping[str, Mapping[str, Known]] = field(default_factory=dict)
    confidence: Mapping[str, float] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Training scans by source."""
        return {source: max(len(own.seen) for own in groups.values()) for source, groups in self.sources.items()}

    def judged(self, source: str, look: Look) -> Judged:
        known = self.sources.get(source)
        if not self.weights_sha256:
            return Judged(None, ("the version was registered without its training scans' looks: nothing can be told",))
        if not known:
            return Judged(None, (f"fewer than {FEWEST} training patients of {source}, and no others: too few to tell",))
        scores = {
            group: min(own.distance(look[group]) / own.bound, MOST)
            for group, own in known.items()
            if group in look and len(look[group]) == own.seen.shape[1]
        }
        reasons = [known[group].reason(look[group], score) for group, score in scores.items() if score > 1]
        return Judged(max(scores.values(), default=None), tuple(reasons))

    def unsure(self, confidence: Mapping[str, float]) -> list[str]:
        """What is to be told of structures that the network is less sure of than of nearly all held-out scans."""
        return [
            f"{name}: confidence {confidence[name]:.2f} is below {bound:.2f}, which 98 of 100 held-out scans reach"
            for name, bound in self.confidence.items()
            if 0 < confidence.get(name, 0.0) < bound
        ]

    def write(self, path: Path) -> None:
        every = {f"{source}/{group}": own for source, groups in self.sources.items() for group, own in groups.items()}
        numbers = {name: np.ascontiguousarray(own.seen, np.float32) for name, own in every.items()}
        numbers |= {f"{name}/{SCALE}": np.ascontiguousarray(own.scale, np.float32) for name, own in every.items()}
        bounds = {name: float(own.bound) for name, own in every.items()}
        told = {"weights_sha256": self.weights_sha256, "code_sha256": made_by(), "bounds": bounds}
        with replacing(path) as temporary:
            save_file(numbers, temporary, {"familiarity": json.dumps({**told, "confidence": dict(self.confidence)})})


def read(path: Path) -> Familiarity:
    """Raises ValueError if it is none; OtherCodeError if other code made it, whose numbers mean something else."""
    try:
        with safe_open(path, "numpy") as file:
            told = json.loads(file.metadata()["familiarity"])
            numbers = {name: file.get_tensor(name).astype(np.float64) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        told = f"{path.name} is not readable ({type(error).__name__}); evaluate and register again"
        raise ValueError(told) from None
    if told["code_sha256"] != made_by():
        raise OtherCodeError(f"{path.name} was made by other code; evaluate and register again")
    sources: dict[str, dict[str, Known]] = {}
    for name, bound in told["bounds"].items():
        source, _, group = name.partition("/")
        sources.setdefault(source, {})[group] = Known(group, numbers[name], numbers[f"{name}/{SCALE}"], bound)
    return Familiarity(told["weights_sha256"], sources, told["confidence"])


def made_by() -> str:
    """Digest of the code behind the numbers."""
    return code.digest(__name__, without=(*code.WITHOUT_INFLUENCE, "pipelines.scans"))
