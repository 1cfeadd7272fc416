"""A network with random weights that knows structures in CT, for tests of all around it."""

from dataclasses import asdict
from pathlib import Path

import torch

from model import weights
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from pipelines.cases.preparation import CTScale, Preprocessing, SourceRecord
from pipelines.scans import vocabulary

SPACING = (2.0, 2.0, 2.0)
KNOWN = (9, 12)  # kidney, spleen


def write_weights(folder: Path, window: int = 16, classes: int = 2) -> Path:
    """The folder, with the weights of a `nano` that knows kidney and spleen, or the first `classes` structures."""
    torch.manual_seed(0)
    known = [each for each in vocabulary.default().values() if not each.parts or each.id in KNOWN]
    known = [each for each in known if classes != 2 or each.id in KNOWN][:classes]
    names = tuple(each.name for each in known)
    plan = Preprocessing(CTScale(-200.0, 300.0, 50.0, 100.0), {"kits": SourceRecord(("CT",), names, SPACING, SPACING)})
    card = weights.Card(
        "nano", asdict(PRESETS["nano"]), names, {each.name: each.id for each in known}, {"kits": (window,) * 3},
        plan.to_json(), {},
    )  # fmt: skip
    folder.mkdir(parents=True)
    weights.export(folder, MedSegFormer(PRESETS["nano"], num_classes=classes + 1).state_dict(), card)
    return folder
