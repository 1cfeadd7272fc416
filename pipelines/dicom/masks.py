"""All that was drawn on a series -> masks on the slices of one of its volumes -> one label map.

Labels(objects, beside).on(stack) -> masks and notes     a label that cannot be used raises DicomError
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom import Dataset

from pipelines.dicom import contours
from pipelines.dicom.contours import Drawing, Drawn
from pipelines.dicom.reading import DicomError, whole
from pipelines.dicom.stack import Stack
from pipelines.scans import vocabulary
from pipelines.scans.contracts import smallest_type
from pipelines.scans.label_names import structure_of
from pipelines.scans.volume import VolumeError, read
from pipelines.work.wording import counted

Masks = dict[str, np.ndarray]  # structure -> bool, (n, rows, columns), as drawn


class Labels:
    """`objects`: (kind of object, file); `beside`: NIfTI files in the series' folder. Each is opened once, however many
    volumes the series has."""

    def __init__(self, objects: Sequence[tuple[str, Path]], beside: Sequence[Path]) -> None:
        self._objects, self._beside = objects, beside
        self._opened: dict[Path, Dataset] = {}

    def on(self, stack: Stack) -> tuple[Masks, list[str]]:
        """Raises DicomError if one of them cannot be used."""
        drawings = []
        for k, (kind, path) in enumerate(self._objects):
            try:
                if path not in self._opened:
                    self._opened[path] = whole(path)
                drawings.append(contours.read(kind, self._opened[path], stack))
            except DicomError as error:
                raise DicomError(f"{kind} {k + 1} of {len(self._objects)}: {error}") from None
        drawings += [_beside(path, stack) for path in self._beside]
        masks, notes = contours.merged(drawings)
        return {name: mask for name, mask in masks.items() if mask.any()} or masks, notes


def _beside(path: Path, stack: Stack) -> Drawing:
    """A NIfTI label in the series' folder: `STRUCTURE.nii.gz`, or any name and a `.json` of value -> structure."""
    meanings = _meanings(path)
    if not meanings:
        note = "a NIfTI file beside the series: neither its name nor a .json says which structures it holds"
        return Drawing([], 0, [note])
    try:
        label = read(path)
    except VolumeError as error:
        raise DicomError(f"NIfTI label beside the series: {error}") from None
    opened: Any = nib.load(path)
    file_axes = np.asarray(opened.dataobj)
    shape = stack.frames[0].shape[1], stack.frames[0].shape[0], len(stack.frames)
    if stack.notes or file_axes.shape != shape or np.abs(label.affine - stack.affine).max() > 0.01:
        raise DicomError("NIfTI label beside the series: it does not lie on the series' grid")
    outside = sorted(set(np.unique(file_axes).tolist()) - {0, *meanings})
    if outside:
        raise DicomError(f"NIfTI label beside the series: value {outside[0]:g} has no meaning in its .json")
    slices = file_axes.transpose(2, 1, 0)
    return Drawing([Drawn(name, slices == value) for value, name in meanings.items()], 0, [])


def _meanings(path: Path) -> dict[int, str]:
    """Value -> structure; nothing if one is not known."""
    if alone := structure_of("", _stem(path)):
        return {1: alone}
    try:
        stated = json.loads(meanings_of(path).read_text())
        named = {int(value): structure_of("", str(name)) or "" for value, name in stated.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return named if all(named.values()) else {}


def meanings_of(path: Path) -> Path:
    """The file beside a NIfTI label that may say which structures it holds."""
    return path.with_name(f"{_stem(path)}.json")


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def label_map(masks: Masks, stack: Stack) -> tuple[np.ndarray, list[str]]:
    """One value a voxel: where structures overlap the smaller one wins: the part of a whole."""
    if not any(mask.any() for mask in masks.values()):
        raise DicomError("the label is empty")
    ids = {name: vocabulary.here()[name].id for name in masks}
    label = np.zeros(next(iter(masks.values())).shape, smallest_type(max(ids.values())))
    overlapping = np.sum(list(masks.values()), axis=0) > 1
    for name in sorted(masks, key=lambda name: int(masks[name].sum()), reverse=True):
        label[masks[name]] = ids[name]
    count = int(overlapping.sum())
    notes = [f"structures overlap in {counted(count, 'voxel')}: the smaller one was taken there"] if count else []
    return stack.correct(label, 0, 0), notes
