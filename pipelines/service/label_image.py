"""A label map as MONAI Label's clients take it: structures numbered from 1, as NRRD (http://teem.sourceforge.net/nrrd).

They keep numbers in a byte, and read what comes back by the names that /info/ lists, in their order: so numbers here
are places in that list, not the ids that our own label maps have.
"""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image

from pipelines.scans import nifti

TYPES = {"uint8": "uint8", "uint16": "uint16", "int16": "int16", "int32": "int32"}  # numpy's name: NRRD's
NRRD, NIFTI = ".nrrd", ".nii.gz"


@dataclass(frozen=True, eq=False)
class LabelImage:
    """`numbers` (i, j, k) on the scan's own grid; `affine`: voxel -> RAS mm."""

    numbers: np.ndarray
    affine: np.ndarray

    @staticmethod
    def read(file: Path, ids: Sequence[int], dtype: str = "uint8") -> "LabelImage":
        """A label map of ours. `ids`: of the structures in their order; others become background. `dtype`: widened if
        it cannot hold them."""
        found = nifti.load(file)
        wanted = np.dtype(dtype if np.iinfo(dtype).max >= len(ids) else "uint16")
        values = found.data.astype(np.int32)
        table = np.zeros(max([*ids, int(values.max(initial=0))]) + 1, wanted)
        table[list(ids)] = np.arange(1, len(ids) + 1)
        return LabelImage(table[values], found.affine)

    def present(self) -> list[int]:
        return [int(number) for number in np.unique(self.numbers) if number]

    def centroid(self, number: int) -> list[int]:
        """The voxel in its middle."""
        return [round(float(at.mean())) for at in np.nonzero(self.numbers == number)]

    def packed(self, ending: str, compressed: bool = True) -> bytes:
        """`ending`: NRRD or NIFTI."""
        if ending == NIFTI:
            return gzip.compress(Nifti1Image(self.numbers, self.affine).to_bytes(), 6, mtime=0)
        content = np.asarray(self.numbers, dtype=self.numbers.dtype.newbyteorder("<")).tobytes(order="F")
        return self._header(compressed).encode("ascii") + (
            gzip.compress(content, 6, mtime=0) if compressed else content
        )

    def _header(self, compressed: bool) -> str:
        lps = np.diag([-1.0, -1.0, 1.0]) @ self.affine[:3] + 0.0  # no -0
        *directions, origin = (f"({','.join(f'{value:.17g}' for value in column)})" for column in lps.T)
        lines = (
            "NRRD0004", f"type: {TYPES[self.numbers.dtype.name]}", "dimension: 3", "space: left-posterior-superior",
            f"sizes: {' '.join(map(str, self.numbers.shape))}", f"space directions: {' '.join(directions)}",
            "kinds: domain domain domain", "endian: little", f"encoding: {'gzip' if compressed else 'raw'}",
            f"space origin: {origin}",
        )  # fmt: skip
        return "\n".join(lines) + "\n\n"
