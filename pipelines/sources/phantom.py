"""Small anatomical phantoms in the BraTS, KiTS and ACDC layouts: every reader is exercised on a machine with no data.

Each is an ellipsoidal body with the structures of its layout inside, of varied position, size and contrast, plus noise:
solvable by a small network in a minute, and not by thresholding alone (contrasts overlap with distractors).
"""

from pathlib import Path

import numpy as np

LAYOUTS = ("brats", "kits", "acdc")
BRATS_MODALITIES = ("flair", "t1", "t1ce", "t2")


def write(folder: Path, cases_per_layout: int, size: int, seed: int) -> None:
    """Write the cohort below `folder`/{brats,kits,acdc}. A pure function of its arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(cases_per_layout):
        for layout, writer in enumerate((_brats, _kits, _acdc)):
            writer(folder, index, size, np.random.default_rng([seed, layout, index]))


def _brats(folder: Path, index: int, size: int, rng: np.random.Generator) -> None:
    """A head with a three-part tumour, in up to four sequences: every third case lacks T1 and T2."""
    head = _ball((size, size, size), (0.5, 0.5, 0.5), (0.44, 0.38, 0.42))
    centre = rng.uniform(0.38, 0.62, 3)
    radius = rng.uniform(0.13, 0.2)
    label = np.zeros(head.shape, np.uint8)
    for value, part in ((2, 1.0), (4, 0.72), (1, 0.42)):  # oedema around enhancing rim around necrosis
        label[_ball(head.shape, centre, (radius * part,) * 3)] = value
    ventricle = _ball(head.shape, 1 - centre, (0.07, 0.12, 0.05))  # distractor: bright as oedema on T2
    contrast = {
        "flair": (60, 140, 90, 120),
        "t1": (90, 50, 60, 70),
        "t1ce": (90, 60, 70, 200),
        "t2": (70, 160, 180, 150),
    }
    name = f"BraTS20_Training_{index + 1:03d}"
    for modality in BRATS_MODALITIES if index % 3 else ("flair", "t1ce"):
        tissue, oedema, necrosis, enhancing = contrast[modality]
        image = np.where(head, tissue, 0).astype(np.float32)
        image[ventricle & head] = oedema if modality == "t2" else 30
        for value, level in ((2, oedema), (1, necrosis), (4, enhancing)):
            image[label == value] = level
        image = np.where(head, image * rng.uniform(0.8, 1.3) + rng.normal(0, 8, head.shape), 0)
        _save(folder / "brats" / name / f"{name}_{modality}.nii.gz", image.clip(0), np.diag([-1.0, -1, 1, 1]))
    _save(folder / "brats" / name / f"{name}_seg.nii.gz", label, np.diag([-1.0, -1, 1, 1]))


def _kits(folder: Path, index: int, size: int, rng: np.random.Generator) -> None:
    """An abdomen with two kidneys, a tumour and, in every second case, a cyst; slices first, as KiTS stores them."""
    shape = (size, size, size)
    body = _ball(shape, (0.5, 0.5, 0.5), (0.7, 0.38, 0.46))
    image = np.where(body, rng.normal(40, 5), -1000).astype(np.float32)
    image[_ball(shape, (0.5, 0.72, 0.5), (0.8, 0.08, 0.08))] = 400  # spine
    label = np.zeros(shape, np.uint8)
    centres = [
        (rng.uniform(0.42, 0.58), rng.uniform(0.5, 0.6), side + rng.uniform(-0.03, 0.03)) for side in (0.28, 0.72)
    ]
    for centre in centres:
        label[_ball(shape, centre, (0.2, rng.uniform(0.1, 0.13), rng.uniform(0.09, 0.12)))] = 1
    sick, other = (centres[0], centres[1]) if rng.random() < 0.5 else (centres[1], centres[0])
    label[_ball(shape, (sick[0] - 0.1, sick[1], sick[2]), (rng.uniform(0.08, 0.12),) * 3)] = 2
    if index % 2:
        label[_ball(shape, (other[0] + 0.12, other[1], other[2]), (0.07,) * 3)] = 3
    for value, level in ((1, 180), (2, 90), (3, -10)):
        image[label == value] = level + rng.normal(0, 5)
    image += rng.normal(0, 12, shape)
    # axes I, P, L: the first array axis runs downwards
    affine = np.array([[0, 0, -1.0, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
    name = f"case_{index:05d}"
    _save(folder / "kits" / name / "imaging.nii.gz", image, affine)
    _save(folder / "kits" / name / "segmentation.nii.gz", label, affine)


def _acdc(folder: Path, index: int, size: int, rng: np.random.Generator) -> None:
    """A short-axis heart in thick slices, two frames a patient: the second is contracted."""
    shape = (size, size, 8)
    centre = (rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58), 0.5)
    radius = rng.uniform(0.15, 0.19)
    side = rng.uniform(0.2, 0.26)
    name = f"patient{index + 1:03d}"
    for frame, contraction in ((1, 1.0), (2, 0.75)):
        label = np.zeros(shape, np.uint8)
        inner = radius * 0.62 * contraction
        label[_ball(shape, (centre[0] - side, centre[1], 0.5), (0.13 * contraction, 0.2 * contraction, 0.7))] = 1
        label[_ball(shape, centre, (radius, radius, 0.8))] = 2
        label[_ball(shape, centre, (inner, inner, 0.75))] = 3
        image = np.full(shape, 40, np.float32) + rng.normal(0, 3)
        image[_ball(shape, (0.5, 0.5, 0.5), (0.47, 0.45, 9))] = 80
        for value, level in ((1, 190), (2, 70), (3, 200)):
            image[label == value] = level
        image = (image + rng.normal(0, 12, shape)).clip(1)
        stem = folder / "acdc" / name / f"{name}_frame{frame:02d}"
        affine = np.diag([1.5, 1.5, 10.0, 1.0])
        _save(stem.with_name(stem.name + ".nii.gz"), image, affine)
        _save(stem.with_name(stem.name + "_gt.nii.gz"), label, affine)
    (folder / "acdc" / name / "Info.cfg").write_text("ED: 1\nES: 2\nNbFrame: 2\n")


def _ball(shape: tuple[int, ...], centre: object, radii: object) -> np.ndarray:
    """An ellipsoid; centre and radii in fractions of the array's axes."""
    axes = [(np.arange(n) + 0.5) / n for n in shape]
    c, r = np.asarray(centre, dtype=float), np.asarray(radii, dtype=float)
    grids = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.asarray(sum(((grid - c[i]) / r[i]) ** 2 for i, grid in enumerate(grids)) <= 1)


def _save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    import nibabel as nib  # half a second, and `inventory` asks for the layouts alone

    path.parent.mkdir(parents=True, exist_ok=True)
    array = array.astype(np.uint8) if array.dtype == np.uint8 else np.rint(array).astype(np.int16)
    nib.save(nib.Nifti1Image(array, affine), path)
