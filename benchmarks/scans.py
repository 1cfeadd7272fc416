"""The scans of benchmarks/data.py: one of 512x512x400 made of a real CT crop if there is one, else made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import zoom

from model.data import casefile
from model.data.casefile import Case, CaseRecord
from pipelines.scans.volume import read

SHAPE = (400, 512, 512)
NOISE_HU = 10.0
SLICE_MM = 0.8
BOXES = 12


def write(folder: Path, data: Path | None) -> None:
    """FOLDER/image.npy (1, D, H, W) normalised, label.npy, boxes.npy; smaller parts as block.npy, volume.npy."""
    hounsfield, label = _mirrored(*(_crop(data) or _balls()))
    hounsfield += NOISE_HU * np.random.default_rng(0).standard_normal(hounsfield.shape, dtype=np.float32)
    inside = hounsfield[label > 0]
    low, high = np.percentile(inside, (0.5, 99.5))
    inside = inside.clip(low, high)
    image = ((hounsfield.clip(low, high) - inside.mean()) / inside.std()).astype(np.float32)
    np.save(folder / "image.npy", image[None])
    np.save(folder / "label.npy", label)
    first = np.random.default_rng(1).integers(0, np.array(SHAPE) - 128, (BOXES, 3))
    np.save(folder / "boxes.npy", np.stack([first, first + 128], axis=2))
    middle = tuple(slice(n // 2 - 96, n // 2 + 96) for n in SHAPE)
    np.save(folder / "block.npy", image[None][(slice(None), *middle)])
    np.save(folder / "block_label.npy", label[middle])
    np.save(folder / "volume.npy", image[:200, :256, :256])


def case_file(folder: Path) -> Path:
    """The scan as the pipeline stores it."""
    path = folder / "case.safetensors"
    if not path.exists():
        image, label = np.load(folder / "image.npy"), np.load(folder / "label.npy")
        points = np.argwhere(label[::8, ::8, ::8] > 0) * 8
        foreground = np.column_stack([np.ones(len(points)), points]).astype(np.int32)
        record = CaseRecord("case", "made-up", "train", ("CT",), ("spleen",), (SLICE_MM,) * 3, {})
        casefile.write(path, Case(record, image, label, foreground))
    return path


def _crop(data: Path | None) -> tuple[np.ndarray, np.ndarray] | None:
    """The first CT with a segmentation of the same name below `data`, in HU, its slices interpolated."""
    for path in sorted(data.rglob("*_ct.nii.gz")) if data else ():
        stem = path.name.removesuffix(".nii.gz")
        for label_path in sorted(data.rglob(f"{stem}*seg*.nii.gz")) if data else ():
            scan, label = read(path), read(label_path)
            factor = (scan.spacing_mm[0] / SLICE_MM, 1, 1)
            share = zoom((label.array > 0).astype(np.float32), factor, order=1)
            return zoom(scan.array.astype(np.float32), factor, order=3), (share > 0.5).astype(np.uint8)
    return None


def _balls() -> tuple[np.ndarray, np.ndarray]:
    """Organs of -50 to 150 HU in fat, in HU; one of them is the structure."""
    rng = np.random.default_rng(2)
    d, h, w = np.ogrid[:160, :160, :160]
    image, label = np.full((160, 160, 160), -90.0, np.float32), np.zeros((160, 160, 160), np.uint8)
    for number in range(40):
        middle, radius = rng.uniform(0, 160, 3), rng.uniform(8, 35)
        ball = (d - middle[0]) ** 2 + (h - middle[1]) ** 2 + (w - middle[2]) ** 2 < radius**2
        image[ball], label[ball] = rng.uniform(-50, 150), number % 8 == 0
    return image, label


def _mirrored(*arrays: np.ndarray) -> list[np.ndarray]:
    """As large as SHAPE, by reflection at their borders."""
    padding = [(0, want - have) for want, have in zip(SHAPE, arrays[0].shape, strict=True)]
    return [np.pad(array, padding, mode="symmetric") for array in arrays]
