"""FLARE 2022: `imagesTr/FLARE22_Tr_0001_0000.nii.gz`, `labelsTr/FLARE22_Tr_0001.nii.gz`, or `images/`, `labels/`; CT.

Its 13 organs are known by value. Later years' scans are each annotated in part, and their names do not say in which:
they need data.labels. A folder with dataset.json is read as nnU-Net's or the Decathlon's.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipelines.scans.label_names import Meanings, contract_by_value, of_source, restated
from pipelines.scans.naming import at
from pipelines.sources import NIFTI, Scan, ambiguous, group

PATTERN = re.compile(
    r"(?P<case>(?:.*/)?(?:images|labels)(?:Tr|Ts|Va|Val)?/(?P<name>FLARE\d\d(?:_[A-Za-z]+)?_\d{4,5}))(?P<role>_0000|)"
    + NIFTI
)


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    indexed = {PurePosixPath(path).parent for path in files if PurePosixPath(path).name == "dataset.json"}
    cases: dict[tuple[str, str], dict[str, list[str]]] = {}
    for place, roles in group(files, PATTERN.pattern).items():
        folder, name = PurePosixPath(place).parent, PurePosixPath(place).name
        if folder.parent not in indexed:
            drawn = folder.name.startswith("labels")
            case = cases.setdefault((folder.parent.as_posix(), name), {})
            case.setdefault("label" if drawn else "image", []).extend(path for each in roles.values() for path in each)
    for (_, name), case in cases.items():
        year, labels, problem = name[5:7], case.get("label", []), ambiguous(case)
        own = of_source(meanings, f"flare-{year}")
        try:
            contract = restated("flare22", own) if year == "22" else contract_by_value(own).spelled()
        except ValueError as error:
            contract = ""
            problem = problem or (f"{at(labels[0])}: {error}" if labels else "")
        if "image" not in case:
            problem = f"{at(labels[0])}: a label without its image"
        images = {"CT": case["image"][0]} if "image" in case else {}
        yield Scan("flare", name, name, images, dict.fromkeys(labels[:1], contract), problem, dataset=year)
