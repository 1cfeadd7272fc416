"""A network with random weights that knows CT kidneys, for tests of all around it."""

from dataclasses import asdict
from pathlib import Path

import torch

from model import weights
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from pipelines.cases.preparation import CTScale, Preprocessing, SourceRecord

SPACING = (2.0, 2.0, 2.0)


def write_weights(folder: Path) -> Path:
    """The folder, with the weights of a `nano` of two classes."""
    torch.manual_seed(0)
    plan = Preprocessing(
        CTScale(-200.0, 300.0, 50.0, 100.0), {"kits": SourceRecord(("CT",), ("kidney", "spleen"), SPACING, SPACING)}
    )
    card = weights.Card(
        "nano", asdict(PRESETS["nano"]), ("kidney", "spleen"), {"kidney": 9, "spleen": 12}, {"kits": (16, 16, 16)},
        plan.to_json(), {},
    )  # fmt: skip
    folder.mkdir(parents=True)
    weights.export(folder, MedSegFormer(PRESETS["nano"], num_classes=3).state_dict(), card)
    return folder
