"""Frames of one volume -> a stack: slices in order, on one grid, with what was wrong and what was done about it.

    Stack.of(...)   sorted by position along the normal; corrected where that loses nothing, else DicomError
    stack.correct   the same correction for the images and for a label drawn on the slices

A stack whose slices lie unevenly is resampled, a tilted gantry's shear is undone in the slice's plane. What cannot be
mended is refused with the reason: a missing slice is missing anatomy, and no interpolation brings it back.
"""

from dataclasses import dataclass, field

import numpy as np

from pipelines.dicom.frames import Frame
from pipelines.dicom.reading import DicomError
from pipelines.dicom.split import SAME_PLACE_MM
from pipelines.work.wording import counted

EVEN_TOLERANCE = 0.01  # of the step; positions are rounded to 0.001-0.01 mm, steps are 0.5-10 mm
TILT_TOLERANCE_DEG = 0.05
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """Slices in order of `positions_mm` along the normal.

    `frames[k]` is slice k; `step_mm` between slices of the corrected grid; `drift_mm` (n, 2): how far each slice lies
    off the normal through the first, along row and column direction (gantry tilt); `notes`: what was corrected.
    """

    frames: list[Frame]
    positions_mm: np.ndarray
    step_mm: float
    drift_mm: np.ndarray
    uneven: bool
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def of(frames: list[Frame], min_slices: int, max_unevenness: float) -> "Stack":
        """Raises DicomError with the reason if the slices do not make a volume."""
        if len(frames) < min_slices:
            raise DicomError(f"{counted(len(frames), 'slice')} where at least {min_slices} make a volume")
        normal = frames[0].normal
        frames = sorted(frames, key=lambda frame: float(frame.position_mm @ normal))
        places = np.array([frame.position_mm for frame in frames])
        positions = places @ normal
        steps = np.diff(positions)
        _refuse_missing(steps)
        step = float((positions[-1] - positions[0]) / (len(frames) - 1))
        unevenness = float(np.abs(steps / step - 1).max())
        if unevenness > max_unevenness:
            raise DicomError(
                f"slices lie {steps.min():.3g} to {steps.max():.3g} mm apart, uneven by {unevenness:.0%} of the step; "
                f"above deidentify.max_unevenness {max_unevenness:g}"
            )
        notes = (
            [f"slices uneven by {unevenness:.1%} of the step: resampled evenly"] if unevenness > EVEN_TOLERANCE else []
        )
        drift, tilt = _drift(places, positions, frames[0])
        if tilt:
            notes.append(f"gantry tilt of {tilt:.1f} degrees: sheared back in the slices' plane")
        return Stack(frames, positions, step, drift, unevenness > EVEN_TOLERANCE, notes)

    @property
    def affine(self) -> np.ndarray:
        """Of the corrected volume: voxel (column, row, slice) -> RAS millimetres."""
        first, (row_mm, column_mm) = self.frames[0], self.frames[0].spacing_mm
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = first.row * column_mm, first.column * row_mm
        affine[:3, 2] = first.normal * self.step_mm
        low_column, low_row = self._margins()[0]
        affine[:3, 3] = first.position_mm + low_column * affine[:3, 0] + low_row * affine[:3, 1]
        return LPS_TO_RAS @ affine

    def correct(self, slices: np.ndarray, order: int, fill: float) -> np.ndarray:
        """Slices (n, rows, columns) as drawn -> the corrected grid; the very array if nothing is to be done.

        `order`: 1 for images, 0 for label maps. `fill`: where the sheared slices show nothing.
        """
        if self.drift_mm.any():
            slices = self._sheared_back(slices, order, fill)
        return self._even(slices, order) if self.uneven else slices

    def _margins(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Voxels that the drift adds: ((lowest column, row offset), (highest ...)), lowest <= 0 <= highest."""
        row_mm, column_mm = self.frames[0].spacing_mm
        voxels = self.drift_mm / (column_mm, row_mm)
        low, high = np.floor(voxels.min(axis=0)).astype(int), np.ceil(voxels.max(axis=0)).astype(int)
        return (min(0, int(low[0])), min(0, int(low[1]))), (max(0, int(high[0])), max(0, int(high[1])))

    def _sheared_back(self, slices: np.ndarray, order: int, fill: float) -> np.ndarray:
        from scipy import ndimage  # late: few stacks are of a tilted gantry, and all of prediction does without

        row_mm, column_mm = self.frames[0].spacing_mm
        (low_column, low_row), (high_column, high_row) = self._margins()
        n, rows, columns = slices.shape
        result = np.full((n, rows + high_row - low_row, columns + high_column - low_column), fill, slices.dtype)
        result[:, -low_row : rows - low_row, -low_column : columns - low_column] = slices
        for k, (along_row, along_column) in enumerate(self.drift_mm):
            moved = (along_column / row_mm, along_row / column_mm)
            result[k] = ndimage.shift(result[k], moved, order=order, mode="constant", cval=fill)
        return result

    def _even(self, slices: np.ndarray, order: int) -> np.ndarray:
        wanted = self.positions_mm[0] + self.step_mm * np.arange(len(slices))
        above = np.clip(np.searchsorted(self.positions_mm, wanted), 1, len(slices) - 1)
        share = (wanted - self.positions_mm[above - 1]) / (self.positions_mm[above] - self.positions_mm[above - 1])
        share = share.clip(0, 1)
        if order == 0:
            return slices[np.where(share < 0.5, above - 1, above)]
        mixed = [(1 - s) * slices[k - 1] + s * slices[k] for s, k in zip(share, above, strict=True)]
        return np.stack(mixed).astype(np.float32)


def _refuse_missing(steps: np.ndarray) -> None:
    """A step of twice the usual, or of any whole multiple, is a gap."""
    usual = float(np.median(steps))
    if usual <= SAME_PLACE_MM:
        raise DicomError("slices lie on top of each other")
    gaps = [(k, round(step / usual)) for k, step in enumerate(steps) if step / usual > 1.5]
    whole = [(k, n) for k, n in gaps if abs(steps[k] / usual - n) < 0.1 * n]
    if gaps and len(whole) == len(gaps):
        lost = sum(n - 1 for _, n in whole)
        missing = "1 slice is" if lost == 1 else f"{lost} slices are"
        raise DicomError(f"{missing} missing, the first after slice {whole[0][0] + 1} of {len(steps) + 1} by position")


def _drift(places: np.ndarray, positions: np.ndarray, first: Frame) -> tuple[np.ndarray, float]:
    """(n, 2) drift along row and column direction, mm, and the tilt in degrees; both 0 if the slices are square."""
    relative = places - places[0]
    drift = np.stack([relative @ first.row, relative @ first.column], axis=1)
    depth = positions - positions[0]
    slope = (drift * depth[:, None]).sum(axis=0) / (depth @ depth)
    off_line = float(np.abs(drift - depth[:, None] * slope).max())
    tilt = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    if off_line > max(0.5, min(first.spacing_mm)):
        raise DicomError(f"slices are shifted sideways against each other by up to {off_line:.3g} mm, on no line")
    if tilt < TILT_TOLERANCE_DEG or np.abs(drift).max() < 0.1 * min(first.spacing_mm):
        return np.zeros_like(drift), 0.0
    return drift, tilt
