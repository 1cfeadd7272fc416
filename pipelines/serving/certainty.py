"""What probabilities say of the label map that is made of them, gathered block by block while they are there.

Soft Dice Confidence (Borges et al. 2024, arXiv 2402.10665): 2 sum(p m) / sum(p + m) over the scan's voxels on the
network's grid, p the probability of a structure, m where it is said to be. It is the Dice that the probabilities expect
of their own mask, and 0 where the mask is empty. The probability of a union is the sum over its parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import torch
from torch import Tensor

from model.data.targets import UNDECIDED, Meaning
from model.tasks.inference import largest

BINS = 20  # of equal width, from 0 to 1
EVERYTHING, FOREGROUND = "everything", "foreground"


@dataclass(frozen=True)
class CertaintyCounts:
    """Voxels by the largest of their probabilities: in each bin their number, how many were right, and the sum of the
    probabilities. All (BINS,)."""

    counts: np.ndarray
    right: np.ndarray
    probability: np.ndarray

    @staticmethod
    def none() -> "CertaintyCounts":
        return CertaintyCounts(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), np.zeros(BINS))

    def __add__(self, other: "CertaintyCounts") -> "CertaintyCounts":
        return CertaintyCounts(
            self.counts + other.counts, self.right + other.right, self.probability + other.probability
        )

    @property
    def edges(self) -> np.ndarray:
        """(BINS + 1,): a bin holds its lower edge, the last one 1 as well."""
        return np.linspace(0, 1, BINS + 1)


class Certainty:
    """Sums over a scan. `members`: of each structure to be told of, the groups of classes that it is made of."""

    def __init__(self, members: Mapping[str, Sequence[int]], groups: int) -> None:
        self.members = members
        self.probability, self.said, self.both = (np.zeros(groups) for _ in range(3))
        self.unions = {name: 0.0 for name, own in members.items() if len(own) > 1}

    def take(self, probability_GDHW: Tensor, best_DHW: Tensor, which_DHW: Tensor) -> None:
        """A block; `best`, `which`: the largest of its probabilities."""
        groups, which = len(self.said), which_DHW.flatten().long()
        said = torch.bincount(which, minlength=groups).cpu().numpy()
        self.said += said
        self.probability += probability_GDHW.flatten(1).sum(1).double().cpu().numpy()
        self.both += torch.bincount(which, best_DHW.flatten().double(), groups).cpu().numpy()
        for name in self.unions:
            own = list(self.members[name])
            if said[own].any():
                inside = torch.zeros(groups, dtype=torch.bool, device=which.device)
                inside[own] = True
                together = probability_GDHW[own].sum(0).flatten()
                self.unions[name] += float(together[inside[which]].sum().double())

    def confidence(self) -> dict[str, float]:
        """Soft Dice Confidence by structure; NaN where not even a probability above zero was said."""
        found = {}
        for name, own in self.members.items():
            both = self.unions.get(name, float(self.both[list(own)].sum()))
            total = float(self.probability[list(own)].sum() + self.said[list(own)].sum())
            found[name] = 2 * both / total if total else nan
        return found

    def voxels(self) -> dict[str, float]:
        """Expected number by structure: the sum of its probabilities."""
        return {name: float(self.probability[list(own)].sum()) for name, own in self.members.items()}


def agreement(members: Mapping[str, Sequence[int]], pairs_PGG: np.ndarray) -> dict[str, float]:
    """Mean Dice of all pairs of views by structure, of pairs one of which has it; NaN if none has.

    `pairs`: as `model.tasks.inference.Tally` counts them.
    """
    found = {}
    for name, own in members.items():
        both = pairs_PGG[:, own][:, :, own].sum((1, 2))
        total = pairs_PGG[:, own].sum((1, 2)) + pairs_PGG[:, :, own].sum((1, 2))
        found[name] = float((2 * both[total > 0] / total[total > 0]).mean()) if (total > 0).any() else nan
    return found


class Calibrating:
    """Largest probabilities against a reference: over EVERYTHING, and over the FOREGROUND, which either of them has.

    `values`: of each group of classes, the value that stands for it in a reference; one for several where the reference
    knows only their union, and their probabilities are summed. Voxels that nobody decided on are left out.
    """

    def __init__(self, meaning: Meaning, values: Sequence[int]) -> None:
        self.table, self.values = meaning.values, torch.tensor(values)
        self.found = {EVERYTHING: CertaintyCounts.none(), FOREGROUND: CertaintyCounts.none()}

    def take(self, reference: np.ndarray, probability_GDHW: Tensor, best_DHW: Tensor, which_DHW: Tensor) -> None:
        """`reference` (d, h, w): structure ids, of the same block."""
        values = self.values.to(which_DHW.device)
        if len(values.unique()) < len(values):
            merged = torch.zeros(int(values.max()) + 1, *best_DHW.shape, device=values.device)
            best_DHW, which_DHW = largest(merged.index_add_(0, values, probability_GDHW))
        else:
            which_DHW = values[which_DHW.long()]
        true, told, best = self.table[reference], which_DHW.cpu().numpy(), best_DHW.cpu().numpy()
        decided = true != UNDECIDED
        for kind, chosen in ((EVERYTHING, decided), (FOREGROUND, decided & ((true > 0) | (told > 0)))):
            self.found[kind] += _counted(best[chosen].astype(np.float64), (true == told)[chosen])


def _counted(probability: np.ndarray, right: np.ndarray) -> CertaintyCounts:
    bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    counts, hits = np.bincount(bins, minlength=BINS), np.bincount(bins[right], minlength=BINS)
    return CertaintyCounts(counts, hits, np.bincount(bins, probability, BINS))
