"""A DICOM series to be segmented -> a NIfTI volume of it, and where its slices lie, for results to be laid on.

    found = series_in(files, pseudonyms)        name -> files of one series; reasons of what cannot be read
    read_series(Wanted(files, nifti))           runs in a child of pipelines/dicom/sandbox.py

The reading is that of the training data (frames, split, stack): one volume, exact or refused by name. Nothing is
de-identified, as results belong to the same patient; the volume itself holds voxels and geometry only.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom import Dataset

from pipelines.dicom import index, sandbox
from pipelines.dicom.aside import planning
from pipelines.dicom.aside import reason as not_a_scan
from pipelines.dicom.frames import Frame, frames_of, kinds_of
from pipelines.dicom.reading import DAMAGE, DicomError, header, is_lossy
from pipelines.dicom.sequence import flattened, recognise
from pipelines.dicom.split import DuplicatedError, split, without_copies
from pipelines.dicom.stack import LPS_TO_RAS, Stack
from pipelines.dicom.stored import Stored, scaled
from pipelines.scans.key import Pseudonyms
from pipelines.work.digests import sha256_of

MIN_SLICES, MAX_UNEVENNESS = 3, 0.1  # as block `deidentify` of profiles/base.yaml has them
LIMITS = sandbox.Limits(seconds=600, memory_gib=8)


@dataclass(frozen=True)
class Found:
    """`series`: pseudonym -> its files; `study`: pseudonym of a series -> of its study. `refused`: file -> reason."""

    series: dict[str, list[Path]] = field(default_factory=dict)
    study: dict[str, str] = field(default_factory=dict)
    refused: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """`files`: of one series; `nifti`: where its volume goes."""

    files: tuple[Path, ...]
    nifti: Path


@dataclass(frozen=True)
class SourceSeries:
    """`files` and `stack`: as read; a frame names its file by number. `role`: what it shows. `notes`: what was
    corrected. `sha256`: of every file, sorted."""

    files: tuple[Path, ...]
    stack: Stack
    role: str
    nifti: Path
    notes: tuple[str, ...]
    sha256: tuple[str, ...]

    def headers(self) -> list[Dataset]:
        """Of the files with a slice of the stack, in its order; each once."""
        return [header(self.files[number]) for number in dict.fromkeys(frame.file for frame in self.stack.frames)]

    @property
    def places_mm(self) -> np.ndarray:
        """(n, 3): where the first voxel of each slice of the corrected grid lies, LPS; its own place where exact."""
        if not self.stack.uneven and not self.stack.drift_mm.any():
            return np.array([frame.position_mm for frame in self.stack.frames])
        affine = LPS_TO_RAS @ self.stack.affine  # either way
        return np.asarray(affine[:3, 3] + np.arange(len(self.stack.frames))[:, None] * affine[:3, 2])


def series_in(files: Sequence[Path], pseudonyms: Pseudonyms) -> Found:
    """Images by series, whatever folders they lie in. Other objects and other files are passed over."""
    found, known = Found(series=defaultdict(list)), set()
    for path, entry in index.read_each(list(files), pseudonyms, index.LIMITS):
        if entry.kind == index.REFUSED:
            found.refused[path] = entry.reason
        elif entry.kind == index.IMAGE and (entry.series, digest := sha256_of(path)) not in known:
            known.add((entry.series, digest))
            found.series[entry.series].append(path)
            found.study[entry.series] = entry.study
    return found


def read_series(wanted: Wanted) -> SourceSeries | sandbox.Refused:
    """Never raises for what the files may hold; MemoryError is left to the sandbox."""
    try:
        return _read(wanted)
    except DicomError as error:
        return sandbox.Refused(str(error))
    except DAMAGE as error:
        return sandbox.Refused(f"damaged ({type(error).__name__})")


def _read(wanted: Wanted) -> SourceSeries:
    headers = [header(path) for path in wanted.files]
    frames, notes = _scans(headers)
    stored = Stored(wanted.files, [f"{number + 1} of {len(headers)}" for number in range(len(headers))])
    stack = Stack.of(_one_volume(frames, stored), MIN_SLICES, MAX_UNEVENNESS)
    if any(is_lossy(each) for each in headers):
        notes.append("lossy compression: the values are near those of the scanner, not the same")
    first = stack.frames[0]
    recognised = recognise(flattened(headers[first.file], first.index))
    slices = scaled(stack.frames, stored.of(stack.frames))
    if first.inverted:
        slices = slices.max() + slices.min() - slices
        notes.append("MONOCHROME1: values inverted")
    corrected = stack.correct(slices, 1, -1024 if recognised.role == "CT" else float(slices.min()))
    image = nib.Nifti1Image(np.ascontiguousarray(corrected.transpose(2, 1, 0)), stack.affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, wanted.nifti)
    digests = tuple(sorted(map(sha256_of, wanted.files)))
    told = (*notes, *filter(None, [recognised.note]), *stack.notes)
    return SourceSeries(wanted.files, stack, recognised.role, wanted.nifti, told, digests)


def _scans(headers: Sequence[Dataset]) -> tuple[list[Frame], list[str]]:
    """The frames of a scan; what of the series is none, by reason. Raises DicomError if nothing is one."""
    frames: list[Frame] = []
    aside: dict[str, int] = defaultdict(int)
    for number, each in enumerate(headers):
        if reason := not_a_scan(each, kinds_of(each)):
            aside[reason] += 1
            continue
        for frame in frames_of(each, number):
            if reason := not_a_scan(each, frame.kinds):
                aside[reason] += 1
            else:
                frames.append(frame)
    if reason := (planning(frames) if frames else "; ".join(aside) or "no image"):
        raise DicomError(reason)
    return frames, [f"{count} images of the series are left out: {reason}" for reason, count in aside.items()]


def _one_volume(frames: list[Frame], stored: Stored) -> list[Frame]:
    """Raises DicomError if the series holds several: nobody says here which of them is meant."""
    try:
        volumes = split(frames, MIN_SLICES).volumes
    except DuplicatedError:
        digests = [hashlib.sha256(array.tobytes()).hexdigest() for array in stored.of(frames)]
        if not (once := without_copies(frames, digests)):
            raise
        volumes = [once]
    if len(volumes) > 1:
        raise DicomError(f"the series holds {len(volumes)} volumes (echoes, times, directions); export the one meant")
    return volumes[0]
