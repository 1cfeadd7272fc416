"""What the validation curve says of a case, structure by structure: Dice of all its patches together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from model.data.dataset import Batch, Patch
from model.data.targets import UNDECIDED

Overlaps = dict[str, np.ndarray]  # structure -> voxels that both masks have, and the sum of what each has


def overlap_by_structure(predicted_BDHW: Tensor, batch: Batch) -> Overlaps:
    """Of each structure that the batch's one sample annotates. `predicted_BDHW`: its values."""
    target = batch.target.cpu().numpy()
    predicted = predicted_BDHW.cpu().numpy()
    predicted[target == UNDECIDED] = 0
    return {
        name: np.array(
            [((target == value) & (predicted == value)).sum(), (target == value).sum() + (predicted == value).sum()]
        )
        for value, name in enumerate(batch.targets[0].names, start=1)
    }


def dice_by_case(kind: str, patches: Sequence[Patch], overlaps: Sequence[Overlaps]) -> list[dict[str, float]]:
    """`KIND.STRUCTURE` of each case: voxels are counted over all its patches, so that a patch that holds none of a
    structure says nothing of it unless it is found there. NaN where neither mask has a voxel."""
    by_case: dict[str, Overlaps] = {}
    for patch, found in zip(patches, overlaps, strict=True):
        counts = by_case.setdefault(patch.case.record.case_id, {})
        for name, count in found.items():
            counts[name] = counts.get(name, np.zeros(2)) + count
    return [
        {f"{kind}.{name}": float(2 * both / total) if total else float("nan") for name, (both, total) in counts.items()}
        for counts in by_case.values()
    ]
