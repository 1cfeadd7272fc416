"""The stored values of a series' frames, each file decoded once however many volumes it holds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.dicom.frames import Frame
from pipelines.dicom.reading import DicomError, pixels, whole

KEPT_BYTES = 2**28  # of decoded files; the one read last is kept whatever its size


class Stored:
    """`files`: of one series; `called`: their pseudonyms."""

    def __init__(self, files: Sequence[Path], called: Sequence[str]) -> None:
        self._files, self._called = files, called
        self._decoded: dict[int, np.ndarray] = {}

    def of(self, frames: Sequence[Frame]) -> list[np.ndarray]:
        """(rows, columns) of every frame, as stored. Raises DicomError with the file's pseudonym."""
        return [self._file(frame.file)[frame.index] for frame in frames]

    def _file(self, number: int) -> np.ndarray:
        if number not in self._decoded:
            try:
                self._decoded[number] = pixels(whole(self._files[number]))
            except DicomError as error:
                raise DicomError(f"file {self._called[number]}: {error}") from None
            while len(self._decoded) > 1 and sum(array.nbytes for array in self._decoded.values()) > KEPT_BYTES:
                del self._decoded[next(iter(self._decoded))]
        return self._decoded[number]


def scaled(frames: Sequence[Frame], stored: Sequence[np.ndarray]) -> np.ndarray:
    """(n, rows, columns) after slope and intercept: int16 where that is exact, else float32."""
    scales = [(frame.slope, frame.intercept) for frame in frames]
    if all(
        array.dtype.kind in "iu" and slope == 1 and float(i).is_integer()
        for array, (slope, i) in zip(stored, scales, strict=True)
    ):
        values = np.stack([array.astype(np.int32) + int(i) for array, (_, i) in zip(stored, scales, strict=True)])
        if values.min() >= -(2**15) and values.max() < 2**15:
            return values.astype(np.int16)
        return values.astype(np.float32)
    values = np.stack(
        [array.astype(np.float32) * np.float32(s) + np.float32(i) for array, (s, i) in zip(stored, scales, strict=True)]
    )
    if not np.isfinite(values).all():
        raise DicomError(f"{int(values.size - np.isfinite(values).sum())} voxels are NaN or infinite")
    return values
