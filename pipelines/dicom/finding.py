"""What a network found in a series, as the writers of DICOM objects need it: segments, figures, who made it.

UIDs follow from `mark` (of scan, weights and settings): the same result made again is the same object to a PACS.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from highdicom import UID, AlgorithmIdentificationSequence
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from pipelines.dicom.source import SourceSeries
from pipelines.scans.structure import SNOMED, Code, Structure

logging.getLogger("highdicom").setLevel(logging.WARNING)  # it logs the UIDs that it copies

MANUFACTURER, MODEL = "MedSegFormer", "medseg predict"
SERIES_NUMBERS = {"dicom-seg": 9300, "dicom-labelmap": 9301, "rtstruct": 9302, "sr": 9303}
SIDES = {
    "left": Code("7771000", SNOMED, "Left"),
    "right": Code("24028007", SNOMED, "Right"),
    "both": Code("51440002", SNOMED, "Right and left"),
}


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
    resolves to by digests: name -> sha256."""

    name: str
    version: str
    standing: str
    digests: Mapping[str, str] = field(default_factory=dict)

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
        return UID(generate_uid(entropy_srcs=[self.mark, *parts]))

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
        """Of the series: who made it and what that is worth, in the 64 characters that DICOM has for it."""
        return f"{self.maker.software}: {self.maker.standing}"[:64]


def concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning[:64])


def modifiers(structure: Structure) -> list[CodedConcept]:
    """Side and whatever else tells a structure from others of its type."""
    found = [SIDES[structure.laterality]] if structure.laterality else []
    return [concept(code) for code in (*found, *filter(None, [structure.modifier]))]


def algorithm(maker: Maker) -> AlgorithmIdentificationSequence:
    family = codes.DCM.ArtificialIntelligence
    told = {**maker.digests, "standing": maker.standing}
    return AlgorithmIdentificationSequence(maker.name, family, maker.version, MANUFACTURER, told)
