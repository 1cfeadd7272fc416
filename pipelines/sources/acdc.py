"""ACDC: one folder a patient, `patientNNN/patientNNN_frameXX.nii.gz` with `_gt` beside; the 4-D cine is not read."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipelines.scans.label_names import Meanings, of_source, restated
from pipelines.scans.naming import at
from pipelines.sources import NIFTI, Scan, ambiguous, group

_PATTERN = r"(?P<case>(?:.*/)?(?P<name>patient\d+)/(?P=name)_frame\d+)(?P<role>_gt|)" + NIFTI

_CINE = re.compile(r"(?:^|/)(?P<name>patient\d+)/(?P=name)_4d" + NIFTI)


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    contract = restated("acdc", of_source(meanings, "acdc"))
    cines = {path.rpartition("/")[0]: path for path in files if _CINE.search(path)}
    for case, roles in group(files, _PATTERN).items():
        key = PurePosixPath(case).name
        label = roles.get("_gt", [None])[0]
        images = {"CINE": roles[""][0]} if "" in roles else {}
        cine = tuple(path for path in [cines.get(case.rpartition("/")[0])] if path)
        problem = ambiguous(roles) if images else f"{at(label or case)}: a ground truth without its frame"
        yield Scan("acdc", key.partition("_")[0], key, images, {label: contract} if label else {}, problem, unread=cine)
