"""LiTS: `volume-N.nii` and `segmentation-N.nii`, beside each other or in folders apart; `test-volume-N.nii`; CT."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipelines.scans.label_names import Meanings, of_source, restated
from pipelines.scans.naming import at
from pipelines.sources import NIFTI, Scan, ambiguous

_NAME = re.compile(r"(?P<role>volume|test-volume|segmentation)-(?P<number>\d+)" + NIFTI)


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    contract = restated("lits", of_source(meanings, "lits"))
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for path in sorted(files):
        if match := _NAME.fullmatch(PurePosixPath(path).name):
            folder = PurePosixPath(path).parent.as_posix()
            found.setdefault((folder, match["number"]), {}).setdefault(match["role"], []).append(path)
    for case, roles in _joined(found).items():
        label = roles.pop("segmentation", None)
        problem = ambiguous({**roles, "segmentation": label or []})
        for role, paths in roles.items():
            key = f"{role}-{case[1]}"
            labels = {label[0]: contract} if label and role == "volume" else {}
            yield Scan("lits", key, key, {"CT": paths[0]}, labels, problem)
        if label and "volume" not in roles:
            key = f"volume-{case[1]}"
            yield Scan("lits", key, key, {}, {label[0]: contract}, f"{at(label[0])}: a segmentation without its volume")


def _joined(
    found: dict[tuple[str, str], dict[str, list[str]]],
) -> dict[tuple[str, str], dict[str, list[str]]]:
    """A segmentation without a volume beside it goes to the one volume of its number that has none."""
    for (folder, number), roles in list(found.items()):
        alone = [other for other in found if other[1] == number and "volume" in found[other] and len(found[other]) == 1]
        if "segmentation" in roles and "volume" not in roles and len(alone) == 1:
            found[alone[0]]["segmentation"] = roles.pop("segmentation")
            if not roles:
                del found[folder, number]
    return found
