"""BraTS: one folder a case, with any subset of the sequences.

2020 and 2021: `NAME/NAME_{flair,t1,t1ce,t2,seg}.nii.gz`. From 2023 on: `BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1n`,
likewise t1c, t2w, t2f, seg; GLI (gliomas), MEN, MET, SSA and further ones are data sets of their own, the last number
is the occasion. Gliomas after treatment (2024) have occasions from 100 on and a fourth label, the resection cavity.
What PED's values mean changed from 2023 to 2024, so params.yaml has to say it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from pipelines.scans import modalities
from pipelines.scans.label_names import Meanings, contract_by_value, of_source, restated
from pipelines.scans.naming import at
from pipelines.sources import NIFTI, Scan, ambiguous, group, slug

_PATTERN = r"(?P<case>(?:.*/)?(?P<name>[^/]+))/(?P=name)[_-](?P<role>flair|t1ce|t1n|t1c|t1|t2w|t2f|t2|seg)" + NIFTI
_LATER = re.compile(r"(?P<patient>BraTS-(?P<kind>[A-Za-z]+)-\d+)(?:-(?P<occasion>\d+))?")
_TREATED = 100  # the first occasion after treatment
_LATER_ROLES = {"t1n", "t1c", "t2w", "t2f"}


def find(files: Sequence[str], root: Path, meanings: Meanings) -> Iterator[Scan]:
    for folder, roles in group(files, _PATTERN).items():
        name = PurePosixPath(folder).name
        label = roles.pop("seg", None)
        images = {modalities.here().find(role) or role: paths[0] for role, paths in roles.items()}
        problem = ambiguous({**roles, "seg": label or []})
        if not images:
            problem = f"{at(folder)}: a segmentation without any of flair, t1, t1ce, t2 (or t2f, t1n, t1c, t2w)"
        elif len(images) < len(roles):
            problem = problem or f"{at(folder)}: one sequence by two names; keep one"
        later = _LATER.fullmatch(name)
        dataset = slug(later["kind"]) if later else ""
        known = _contract(later) if later or _LATER_ROLES & set(roles) else "brats"
        contract, unsaid = _said(known, of_source(meanings, f"brats-{dataset}".strip("-"))) if label else ("", "")
        problem = problem or (unsaid and f"{at(folder)}: {unsaid}")
        patient, labels = later["patient"] if later else name, {label[0]: contract} if label else {}
        yield Scan("brats", patient, name, images, labels, problem, dataset=dataset)


def _contract(later: re.Match[str] | None) -> str:
    """By name; empty if the data set's name does not tell it."""
    if later is None or later["kind"] != "GLI":
        return "" if later and later["kind"] == "PED" else "brats23"
    return "brats24" if int(later["occasion"] or 0) >= _TREATED else "brats23"


def _said(known: str, own: Mapping[str, str]) -> tuple[str, str]:
    """The contract with what params.yaml says, and the problem if there is none."""
    try:
        return restated(known, own) if known else contract_by_value(own).spelled(), ""
    except ValueError as error:
        return "", str(error)
