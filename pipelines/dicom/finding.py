"""What a network found in a series, as the writers of DICOM objects need it: segments, figures, who made it.

UIDs follow from `mark` (of scan, weights and settings): the same result made again is the same object to a PACS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydicom.uid import UID, generate_uid

from pipelines.dicom.source import SourceSeries
from pipelines.scans.structure import Structure

MANUFACTURER, MODEL = "MedSegFormer", "medseg predict"
SERIES_NUMBERS = {"dicom-seg": 9300, "dicom-labelmap": 9301, "rtstruct": 9302, "sr": 9303}


@dataclass(frozen=True)
class MeasuredVolume:
    """Of a structure: volume of its voxels, the interval a reference's lies in at `level`, confidence in [0, 1]."""

    volume_ml: float
    interval_ml: tuple[float, float] | None = None
    level: float | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Maker:
    """The version: what it is called, what it is worth (`standing`: an alias, or that it is not released), and what it
    resolves to by digests: name -> sha256. `remark`: in a word, what is wrong with the scan for it."""

    name: str
    version: str
    standing: str
    digests: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""

    @property
    def software(self) -> str:
        return f"{self.name} {self.version}"[:64]


@dataclass(frozen=True)
class DicomFinding:
    """`slices` (n, rows, columns): structure ids on the grid of `series`. `structures`: those that have a voxel, by id.

    Segment k is the k-th of them, from 1.
    """

    series: SourceSeries
    slices: np.ndarray
    structures: Sequence[Structure]
    measured: Mapping[str, MeasuredVolume]
    maker: Maker
    mark: str

    def uid(self, *parts: str) -> UID:
        return generate_uid(entropy_srcs=[self.mark, *parts])

    @property
    def serial(self) -> str:
        """Of the mark the digest: what the writer says of itself as a device."""
        return self.mark.partition(";")[0].rpartition(" ")[2]

    @property
    def numbered(self) -> np.ndarray:
        """The slices with segment numbers for ids."""
        numbers = np.zeros(int(self.slices.max()) + 1, np.uint8 if len(self.structures) < 256 else np.uint16)
        for number, structure in enumerate(self.structures, 1):
            numbers[structure.id] = number
        return np.asarray(numbers[self.slices])

    @property
    def description(self) -> str:
        """Of the series: who made it and what that is worth, in the 64 characters that DICOM has for it; a long name is
        cut, never what it is worth."""
        worth = "; ".join(filter(None, (self.maker.standing, self.maker.remark)))
        return f"{self.maker.software[: 64 - len(worth) - 2]}: {worth}"
