"""ACDC: one folder a patient, `patientNNN/patientNNN_frameXX.nii.gz` with `_gt` beside; the 4-D cine is not read."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipelines.scans.label_names import Meanings
from pipelines.scans.naming import at
from pipelines.sources import Scan, ambiguous, group

_PATTERN = r"(?P<case>(?:.*/)?(?P<name>patient\d+)/(?P=name)_frame\d+)(?P<role>_gt|)(?i:\.nii(?:\.gz)?)$"


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    for case, roles in group(files, _PATTERN).items():
        key = PurePosixPath(case).name
        label = roles.get("_gt", [None])[0]
        images = {"CINE": roles[""][0]} if "" in roles else {}
        problem = ambiguous(roles) if images else f"{at(label or case)}: a ground truth without its frame"
        yield Scan("acdc", key.partition("_")[0], key, images, {label: "acdc"} if label else {}, problem)
