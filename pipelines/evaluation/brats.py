"""Held-out gliomas as BraTS's own program takes them, so that its figures can stand beside ours.

    brats-evaluate --config gli --ref_path brats/references --pred_path brats/predictions ...

Label maps of 1 necrotic core, 2 oedema, 3 enhancing, 4 resection cavity, called BraTS-GLI-00001-000.nii.gz on, since
the program skips other names; brats/cases.csv says which case is which (brats-evaluation 0.0.10).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipelines.evaluation.score import Score
from pipelines.evaluation.views import label_map
from pipelines.scans import labels
from pipelines.scans.manifest import Row
from pipelines.scans.vocabulary import Vocabulary
from pipelines.scans.volume import write_label

VALUES = {"tumour_necrotic_core": 1, "tumour_oedema": 2, "tumour_enhancing": 3, "resection_cavity": 4}
NEEDED = frozenset({"tumour_necrotic_core", "tumour_oedema", "tumour_enhancing"})


def export(folder: Path, predictions: Path, scores: Sequence[Score], rows: Mapping[str, Row], words: Vocabulary) -> int:
    """How many cases were written: those measured on all parts of a glioma. Without one, no folder is made.

    `folder`: gets `references`, `predictions` and cases.csv. `predictions`: CASE.nii.gz of structure ids each.
    """
    cases = gliomas(scores)
    if not cases:
        return 0
    for part in ("references", "predictions"):
        (folder / part).mkdir(parents=True)
    lines = ["name,case"]
    for number, case_id in enumerate(cases, start=1):
        name = f"BraTS-GLI-{number:05d}-000"
        lines.append(f"{name},{case_id}")
        for part, ids in (
            ("references", labels.read(rows[case_id])),
            ("predictions", label_map(predictions / f"{case_id}.nii.gz")),
        ):
            _write(folder / part / f"{name}.nii.gz", ids, rows[case_id].spacing_mm, words)
    (folder / "cases.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(cases)


def gliomas(scores: Sequence[Score]) -> list[str]:
    """Cases that were measured on every part that BraTS has had since its beginning."""
    measured: dict[str, set[str]] = {}
    for score in scores:
        measured.setdefault(score.case_id, set()).add(score.structure)
    return sorted(case for case, names in measured.items() if names >= NEEDED)


def _write(path: Path, ids: np.ndarray, spacing_mm: Sequence[float], words: Vocabulary) -> None:
    """`ids` (D, H, W), head, front and right: stored right first, as RAS."""
    values = np.zeros(ids.shape, np.uint8)
    for name, value in VALUES.items():
        if name in words:
            values[np.isin(ids, words.covered_ids(name))] = value
    write_label(path, np.ascontiguousarray(values.transpose(2, 1, 0)), np.diag([*spacing_mm[::-1], 1.0]))
