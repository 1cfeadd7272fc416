"""KiTS: one folder a case, `case_NNNNN/imaging.nii.gz` and `segmentation.nii.gz`; CT."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipelines.scans.label_names import Meanings
from pipelines.scans.naming import at
from pipelines.sources import Scan, ambiguous, group

_PATTERN = r"(?P<case>(?:.*/)?case_\d+)/(?P<role>imaging|segmentation)(?i:\.nii(?:\.gz)?)$"


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    for folder, roles in group(files, _PATTERN).items():
        name = PurePosixPath(folder).name
        label = roles.get("segmentation", [None])[0]
        images = {"CT": roles["imaging"][0]} if "imaging" in roles else {}
        problem = (
            ambiguous(roles)
            if images
            else f"{at(folder)}: imaging.nii.gz is missing; KiTS ships images apart from labels"
        )
        yield Scan("kits", name, name, images, {label: "kits"} if label else {}, problem)
