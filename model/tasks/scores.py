"""What the validation curve says of a predicted patch, structure by structure."""

from __future__ import annotations

from torch import Tensor

from model.data.dataset import Batch, StreamConfig
from model.metrics import dice


def dice_by_structure(kind: str, predicted_BDHW: Tensor, batch: Batch, stream: StreamConfig) -> dict[str, float]:
    """`KIND.STRUCTURE`: Dice of each structure that the batch's one sample annotates. `predicted_BDHW`: class index."""
    names = {identifier: name for name, identifier in stream.structures.items()}
    predicted, target = predicted_BDHW.cpu().numpy(), batch.target.cpu().numpy()
    annotated = batch.annotated[0].tolist()
    return {
        f"{kind}.{names[identifier]}": dice(target == index, predicted == index)
        for index, identifier in enumerate(stream.classes, start=1)
        if annotated[index]
    }
