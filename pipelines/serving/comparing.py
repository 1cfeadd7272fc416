"""`medseg compare`: two registered versions on the same held-out scans, segmented here and now in the same way.

    reports/compare/NAME-3-5/: index.html, differences.json        (NAME-3 minus NAME-5)

What a version made of the scans is kept in .medseg/compare and found again, by its weights, conditions and the scans.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import params
from pipelines.evaluation import comparison, evaluation_folder, tables, telling, views
from pipelines.evaluation.comparison import ShiftMap
from pipelines.evaluation.score import Score, structures_of
from pipelines.pages import shift_map
from pipelines.pages.evaluation import report
from pipelines.pages.evaluation.content import ComparisonTold, Viewed
from pipelines.release import audit, registry
from pipelines.release.registry import RegisteredModel
from pipelines.scans import labels, manifest, vocabulary
from pipelines.scans.manifest import Row
from pipelines.serving.conditions import Conditions
from pipelines.serving.held_out import segment_and_measure
from pipelines.work import project
from pipelines.work.memory import GIB
from pipelines.work.progress import track
from pipelines.work.writing import replacing, write_json

LEFT_OUT = "left_out.json"


def compare(first: str, other: str, target: Path | None = None, other_code: bool = False) -> dict[str, Any]:
    """`models:/NAME/VERSION` or `models:/NAME@ALIAS` each. What differences.json says, with `report`, its page's path.

    Raises ValueError if a version is not to be had, or nothing was held out.
    """
    versions = [registry.find(model) for model in (first, other)]
    folders = [_segmented(version, other_code) for version in versions]
    scores = [tables.read(folder / tables.PARQUET) for folder in folders]
    for version, measured in zip(versions, scores, strict=True):
        audit.append(
            "compare",
            weights_sha256=version.record["weights_sha256"],
            test_set_sha256=manifest.test_set_sha256(),
            cases=len({score.case_id for score in measured}),
        )
    names = _names(versions)
    common, alone = comparison.cases_in_common(*scores)
    content: dict[str, Any] = {
        "first": names[0],
        "other": names[1],
        "standing": {version.told.partition(": ")[0]: version.told.partition(": ")[2] for version in versions},
        "cases": len(common),
        "cases_of_one_alone": alone,
        "left_out": {name: _left_out(folder) for name, folder in zip(names, folders, strict=True)},
        "differences": comparison.differences(*scores),
    }
    where = target or project.root() / "reports/compare" / f"{names[0]}-{versions[1].version}".replace(" ", "-")
    with replacing(where) as folder:
        folder.mkdir(parents=True)
        write_json(folder / "differences.json", content)
        _write_report(folder / evaluation_folder.REPORT, names, folders, scores, common, content)
    return {**content, "report": str(where / evaluation_folder.REPORT)}


def _names(versions: Sequence[RegisteredModel]) -> tuple[str, str]:
    one, other = (f"{version.name} {version.version}" for version in versions)
    return one, other


def _segmented(version: RegisteredModel, other_code: bool) -> Path:
    """The folder with the version's scores and label maps of the scans that are held out now."""
    conditions = Conditions.from_json(version.record["conditions"]).checked(other_code)
    here = replace(Conditions.of_here(conditions.overlap), flips=conditions.flips)
    told = json.dumps([version.record["weights_sha256"], here.to_json(), manifest.digest()], sort_keys=True)
    folder = project.state_folder() / "compare" / hashlib.sha256(told.encode()).hexdigest()[:16]
    if (folder / tables.PARQUET).is_file():
        return folder
    memory_bytes = int(params.load().preprocess.memory_gib * GIB)
    folder.parent.mkdir(exist_ok=True)
    with replacing(folder) as temporary:
        predictions = temporary / evaluation_folder.PREDICTIONS
        predictions.mkdir(parents=True)
        found = segment_and_measure(version.weights(), here, memory_bytes, predictions)
        if not found.scores:
            raise ValueError(
                f"no held-out scan could be measured: {next(iter(found.left_out.values()), 'there is none')}"
            )
        tables.write(temporary, found.scores)
        write_json(temporary / LEFT_OUT, found.left_out)
    return folder


def _left_out(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / LEFT_OUT).read_text()))


def _write_report(
    path: Path,
    names: tuple[str, str],
    folders: Sequence[Path],
    scores: Sequence[list[Score]],
    common: Sequence[str],
    content: dict[str, Any],
) -> None:
    words, rows = vocabulary.here(), {row.case_id: row for row in manifest.read()}
    left_out = {f"{case} ({name})": why for name, each in content["left_out"].items() for case, why in each.items()}
    told = evaluation_folder.summarised(scores[0], words, {"left_out": left_out}, None)
    facts = {"first": names[0], "other": names[1], "scans of both": str(len(common))}
    seen = evaluation_folder.drawn(
        [score for score in scores[0] if score.case_id in common], partial(_drawn, rows, folders, scores[0])
    )
    page = telling.as_report(f"{names[0]} against {names[1]}", scores[0], told, words, facts, seen)
    pictures = _shifts(common, rows, folders, structures_of(scores[0]), names)
    others = [score.to_json() for score in scores[1]]
    report.write(path, replace(page, comparison=ComparisonTold(names, content["differences"], others, pictures)))


def _drawn(rows: dict[str, Row], folders: Sequence[Path], scores: Sequence[Score], case_id: str) -> Viewed:
    return views.of_case(
        rows[case_id], dict(zip(("prediction", "other"), _maps(folders, case_id), strict=True)), scores
    )


def _maps(folders: Sequence[Path], case_id: str) -> list[Path]:
    return [folder / evaluation_folder.PREDICTIONS / f"{case_id}.nii.gz" for folder in folders]


def _shifts(
    common: Sequence[str],
    rows: dict[str, Row],
    folders: Sequence[Path],
    structures: Sequence[str],
    names: tuple[str, str],
) -> list[tuple[str, bytes]]:
    """A map a structure of where the other version's surface lies otherwise."""
    words, shifts = vocabulary.here(), ShiftMap()
    for case_id in track(common, len(common), "compare"):
        reference = labels.read(rows[case_id])
        first, other = (views.label_map(path) for path in _maps(folders, case_id))
        d, h, w = rows[case_id].spacing_mm
        for name in structures:
            ids = words.covered_ids(name)
            shifts.add(name, np.isin(reference, ids), np.isin(first, ids), np.isin(other, ids), (d, h, w))
    return [
        (f"{telling.shown(name)}: where {names[1]} differs from {names[0]}", shift_map.draw(each, telling.shown(name)))
        for name, each in shifts.maps().items()
    ]
