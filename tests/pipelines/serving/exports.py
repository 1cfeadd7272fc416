"""Versions to export, scans of what they know, and an environment without torch."""

import re
import sys
import venv
from dataclasses import asdict
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch

from model import weights, weights_file
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from pipelines import params
from pipelines.cases.preparation import WINDOW, Z_SCORE, CTScale, Preprocessing, SourceRecord
from pipelines.release.registry import NOT_RELEASED
from pipelines.scans import vocabulary
from pipelines.serving.exportable import Exportable
from pipelines.serving.segmenter import Segmenter
from tests.conftest import REPOSITORY, save

KIDNEY, SPLEEN, TUMOUR = "kidney", "spleen", "kidney_tumour"
AFFINE = np.array([[0, -2.2, 0, 5], [0, 0, 2.6, -7], [1.7, 0, 0, 3.0], [0, 0, 0, 1]])  # axes turned and swapped
PLAN = Preprocessing(
    CTScale(-200.0, 300.0, 50.0, 100.0),
    {
        "kits": SourceRecord(("CT",), (KIDNEY,), (2.0, 2.0, 2.0), (2.0, 2.0, 2.0), WINDOW),
        "both": SourceRecord(("T1", "T2"), (KIDNEY, SPLEEN), (4.0, 1.5, 1.5), (4.0, 1.5, 1.5), Z_SCORE),
    },
)


def version(folder: Path, flips: tuple[int, ...] = (), sources: tuple[str, ...] = ("kits", "both")) -> Exportable:
    """Of a `nano` fitted for some steps to tell bright from dark, so that its labels are no ties of noise."""
    plan = Preprocessing(PLAN.ct, {name: PLAN.sources[name] for name in sources})
    ids = {name: vocabulary.default()[name].id for name in (KIDNEY, SPLEEN)}
    patches = dict.fromkeys(sources, (16, 24, 16))
    network = _fitted()
    card = weights.Card(
        "nano", asdict(PRESETS["nano"]), tuple(ids), ids, patches, plan.to_json(), {},
        vocabulary.default().records(ids),
    )  # fmt: skip
    folder.mkdir(parents=True)
    weights.export(folder, network.state_dict(), card)
    content = {"name": "m", "weights_sha256": weights_file.digest(folder), "dice": {KIDNEY: 0.5, SPLEEN: None}}
    loaded, card = weights.load(folder)
    segmenter = Segmenter(loaded, card, 0.5, torch.device("cpu"), torch.float32, flips)
    bounds = params.load(REPOSITORY / "params.yaml").ingest.quality
    return Exportable("m", "1", NOT_RELEASED, content, segmenter, bounds)


def _fitted() -> MedSegFormer:
    torch.manual_seed(0)
    network = MedSegFormer(PRESETS["nano"], num_classes=3)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for step in range(30):
        image = torch.nn.functional.interpolate(torch.randn(1, 1, 4, 4, 4), size=16, mode="trilinear")
        target = (image[:, 0] > 0.3).long() + (image[:, 0] > 0.8).long()
        loss = torch.nn.functional.cross_entropy(
            network(image, torch.tensor([[1 + 2 * (step % 2)]]), (2.0, 2.0, 2.0)), target
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.requires_grad_(False).eval()


def scan(path: Path, seed: int = 0, low: float = -300.0) -> Path:
    """Smooth blobs as of tissue and bone in air, not of the networks' spacing."""
    random = np.random.default_rng(seed)
    blobs = np.kron(random.normal(0, 1, (6, 7, 5)), np.ones((5, 4, 6)))
    image = np.full(np.array(blobs.shape) + 6, -1000.0 if low < 0 else 0.0)
    inner = (120 + 200 * blobs + random.normal(0, 20, blobs.shape)).clip(low, 1600)
    image[3:-3, 3:-3, 3:-3] = inner
    return save(path, image.astype(np.int16), AFFINE)


def environment_without_torch(folder: Path) -> Path:
    """The Python of a new virtual environment that has what `requirements.txt` of an export names, by links to what is
    installed here, and nothing else."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    due, done = ["onnxruntime", *_carried()], set[str]()
    while due:
        name = due.pop()
        if name in done:
            continue
        done.add(name)
        own = distribution(name)
        for top in {Path(file).parts[0] for file in own.files or () if ".." not in Path(file).parts}:
            if top != "__pycache__" and not (site / top).exists():
                (site / top).symlink_to(Path(str(own.locate_file(top))))
        due += [re.split(r"[^\w.-]", each)[0].lower() for each in own.requires or () if "extra ==" not in each]
        due = [each for each in due if _is_here(each)]
    return folder / "bin" / Path(sys.executable).name


def _carried() -> tuple[str, ...]:
    from pipelines.serving.carried_code import PACKAGES

    return PACKAGES


def _is_here(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError

    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False
