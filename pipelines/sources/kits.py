"""KiTS: one folder a case, `case_NNNNN/imaging.nii.gz` and `segmentation.nii.gz`; CT."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipelines.scans.label_names import Meanings, of_source, restated
from pipelines.scans.naming import at
from pipelines.sources import NIFTI, Scan, ambiguous, group

_PATTERN = r"(?P<case>(?:.*/)?case_\d+)/(?P<role>imaging|segmentation)" + NIFTI


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    contract = restated("kits", of_source(meanings, "kits"))
    for folder, roles in group(files, _PATTERN).items():
        name = PurePosixPath(folder).name
        label = roles.get("segmentation", [None])[0]
        images = {"CT": roles["imaging"][0]} if "imaging" in roles else {}
        problem = (
            ambiguous(roles)
            if images
            else f"{at(folder)}: imaging.nii.gz is missing; KiTS ships images apart from labels"
        )
        yield Scan("kits", name, name, images, {label: contract} if label else {}, problem)
