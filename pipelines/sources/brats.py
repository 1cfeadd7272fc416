"""BraTS 2020/2021: one folder a case, `NAME/NAME_{flair,t1,t1ce,t2,seg}.nii.gz`; any subset of the modalities."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipelines.scans.label_names import Meanings
from pipelines.scans.naming import at
from pipelines.sources import Scan, ambiguous, group

_PATTERN = r"(?P<case>(?:.*/)?(?P<name>[^/]+))/(?P=name)_(?P<role>flair|t1|t1ce|t2|seg)(?i:\.nii(?:\.gz)?)$"


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    for folder, roles in group(files, _PATTERN).items():
        name = PurePosixPath(folder).name
        label = roles.pop("seg", None)
        images = {role.upper(): paths[0] for role, paths in roles.items()}
        problem = ambiguous({**roles, "seg": label or []})
        if not images:
            problem = f"{at(folder)}: a segmentation without any of flair, t1, t1ce, t2"
        yield Scan("brats", name, name, images, {label[0]: "brats"} if label else {}, problem)
