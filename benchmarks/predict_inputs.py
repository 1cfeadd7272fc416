"""The inputs of benchmarks/predict.py: projects with a registered version of random weights, a large CT, small MR."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from model import weights
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from pipelines.cases.preparation import WINDOW, Z_SCORE, CTScale, Preprocessing, SourceRecord
from pipelines.release import record, registration, tracking
from pipelines.scans import manifest, vocabulary
from pipelines.serving.conditions import Conditions
from pipelines.work import project as places
from pipelines.work.writing import write_json
from tests.pipelines.release import evaluated

NAME = "m"  # of the registered model
PLANE, SPACING_MM = (512, 512), (0.8, 0.8, 1.5)  # columns, rows, slices: 410 x 410 mm, 300 slices are 450
BODY_MM, TABLE_MM = (360.0, 240.0), 160.0  # axes of the body's ellipse; where the table lies behind its middle
NOISE_HU = 10.0
HIPPOCAMPUS, HIPPOCAMPUS_PATCH = (35, 51, 35), (40, 56, 40)  # the latter as in profiles/multi.yaml
CT_SCALE = CTScale(-160.0, 240.0, 40.0, 80.0)


def ct_source(grid_mm: Sequence[float], structures: int) -> SourceRecord:
    names = [each.name for each in vocabulary.default().values() if not each.parts][:structures]
    d, h, w = grid_mm
    return SourceRecord(("CT",), tuple(names), (d, h, w), tuple(reversed(SPACING_MM)), WINDOW)  # type: ignore[arg-type]


def hippocampus_source() -> SourceRecord:
    names = ("hippocampus_anterior", "hippocampus_posterior")
    return SourceRecord(("T1",), names, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), Z_SCORE)


def project(root: Path, source: SourceRecord, patch: tuple[int, int, int], overlap: float = 0.5) -> Path:
    """A folder with version 1 of the model NAME: `tiny`, random weights that see background nearly everywhere."""
    root.mkdir(parents=True)
    with _inside(root):
        evaluated.make(root)
        _write_weights(root / places.TRAINED, source, patch)
        evaluated.evaluate(root, manifest.read(root / places.MANIFEST), 0.9)
        metrics = root / places.EVALUATION / "metrics.json"
        told = json.loads(metrics.read_text())
        write_json(metrics, {**told, "conditions": Conditions.of_here(overlap).to_json()})
        write_json(root / record.FILE, record.make(NAME, root / places.TRAINED, root / places.EVALUATION))
        registration.make_version()
    return root


@contextmanager
def _inside(root: Path) -> Iterator[None]:
    os.environ.pop(tracking.VARIABLE, None)
    with chdir(root):
        yield


def _write_weights(folder: Path, source: SourceRecord, patch: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = MedSegFormer(PRESETS["tiny"], num_classes=len(source.annotated) + 1)
    words = vocabulary.default()
    ids = {name: words[name].id for name in source.annotated}
    plan = Preprocessing(CT_SCALE, {"benchmark": source})
    card = weights.Card(
        "tiny", asdict(PRESETS["tiny"]), source.annotated, ids, {"benchmark": patch}, plan.to_json(), {}
    )
    for file in folder.iterdir():
        file.unlink()
    weights.export(folder, network.state_dict(), card)


def ct(path: Path, slices: int) -> Path:
    """int16: a body of fat with organs and bones in it, in air, on a table; noise of 10 HU."""
    size = (*PLANE, slices)
    random = np.random.default_rng(0)
    places_mm = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(size, SPACING_MM, strict=True)]
    x, y = places_mm[0][:, None], places_mm[1]
    body = (2 * x / BODY_MM[0]) ** 2 + (2 * y / BODY_MM[1]) ** 2 < 1
    plane = np.where(body, -90.0, -1000.0)
    plane[(abs(x) < BODY_MM[0] / 2) & (abs(y + TABLE_MM) < 5)] = 0.0
    image = np.repeat(plane[:, :, None], size[2], 2).astype(np.float32)
    for value, radius_mm in zip(random.uniform(-50, 900, 60), random.uniform(8, 50, 60), strict=True):
        middle = [random.uniform(-1, 1) * 0.3 * n * step for n, step in zip(size, SPACING_MM, strict=True)]
        _ball(image, places_mm, middle, radius_mm, value, body)
    for at in range(size[2]):
        image[:, :, at] += NOISE_HU * random.standard_normal(size[:2], dtype=np.float32)
    affine = np.diag([*SPACING_MM, 1.0])
    nib.save(nib.Nifti1Image(image.round().astype(np.int16), affine), path)
    return path


def _ball(
    image: np.ndarray, places_mm: Sequence[np.ndarray], middle: Sequence[float], radius_mm: float, value: float,
    within: np.ndarray,
) -> None:  # fmt: skip
    box = tuple(
        slice(*np.searchsorted(line, (at - radius_mm, at + radius_mm)))
        for line, at in zip(places_mm, middle, strict=True)
    )
    x, y, z = (line[part] - at for line, at, part in zip(places_mm, middle, box, strict=True))
    inside = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 < radius_mm**2) & within[box[:2]][:, :, None]
    image[box][inside] = value


def part(scan: Path, target: Path, slices: int) -> Path:
    """The middle slices of a scan."""
    whole = nib.load(scan)
    first = (whole.shape[2] - slices) // 2
    target.parent.mkdir(parents=True)
    nib.save(whole.slicer[:, :, first : first + slices], target)
    return target


def hippocampi(folder: Path, count: int, real: Sequence[Path] = ()) -> Path:
    """So many of the `real` ones; without them smooth MR of the size of the Decathlon's crops, 1 mm."""
    folder.mkdir(parents=True)
    for file in real[:count]:
        shutil.copy(file, folder)
    for number in range(0 if real else count):
        random = np.random.default_rng(number)
        coarse = random.normal(300, 100, [n // 5 + 2 for n in HIPPOCAMPUS])
        smooth = np.kron(coarse, np.ones((5, 5, 5)))[tuple(slice(n) for n in HIPPOCAMPUS)]
        image = (smooth + random.normal(0, 15, HIPPOCAMPUS)).clip(1).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"hippocampus_{number:03d}.nii.gz")
    return folder
