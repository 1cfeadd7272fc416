"""What a prediction is asked for, one scan at a time, and the kinds of results it may have."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.dicom.source import SourceSeries
from pipelines.serving.scan_search import ENDINGS

NIFTI, SEG, LABELMAP, RTSTRUCT, SR, JSON, PNG = (
    "nifti", "dicom-seg", "dicom-labelmap", "rtstruct", "sr", "json", "png",
)  # fmt: skip
VIEW = "view"  # what the service's page shows; the service asks for it, nobody else
DICOM = (SEG, LABELMAP, RTSTRUCT, SR)
_ENDS = {
    SEG: ".seg.dcm", LABELMAP: ".labelmap.dcm", RTSTRUCT: ".rtstruct.dcm", SR: ".sr.dcm", JSON: ".json", PNG: ".png",
    VIEW: ".view",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One scan. `files`: by modality, "" or the number of a channel where the name does not say; a channel of a file as
    pipelines/scans/channels.py names it. `target`: of its label map; other results lie beside it. `series`: what
    `files` were read from, if from DICOM; `refused`: why they could not be."""

    files: dict[str, Path]
    target: Path
    series: tuple[SourceSeries, ...] = ()
    refused: str = ""

    @property
    def told_as(self) -> str:
        """A DICOM series by its pseudonym: folders of DICOM are called as patients are."""
        if self.series or self.refused:
            return _stem(self.target)
        return ", ".join(str(file) for file in self.files.values())

    def output(self, kind: str) -> Path:
        return self.target if kind == NIFTI else self.target.with_name(_stem(self.target) + _ENDS[kind])


def _stem(target: Path) -> str:
    return next(target.name.removesuffix(end) for end in (*ENDINGS, "") if target.name.endswith(end))
