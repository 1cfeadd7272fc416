"""What the validation curve says of a predicted patch, structure by structure."""

from __future__ import annotations

from torch import Tensor

from model.data.dataset import Batch
from model.data.targets import UNDECIDED
from model.metrics import dice


def dice_by_structure(kind: str, predicted_BDHW: Tensor, batch: Batch) -> dict[str, float]:
    """`KIND.STRUCTURE`: Dice of each structure that the batch's one sample annotates. `predicted_BDHW`: its values."""
    target = batch.target.cpu().numpy()
    predicted = predicted_BDHW.cpu().numpy()
    predicted[target == UNDECIDED] = 0
    return {
        f"{kind}.{name}": dice(target == value, predicted == value)
        for value, name in enumerate(batch.targets[0].names, start=1)
    }
