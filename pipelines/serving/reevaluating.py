"""`medseg reevaluate`: a version on the labelled held-out scans that came after it was registered.

    reports/reevaluate/NAME-3/: reevaluation.json, and an evaluation's report and files of the new scans alone

A scan is new if its patient is unknown to the version: no scan of theirs, held out or not, is in its manifest. The
case files must be up to date (`medseg run`, or the deployment `reevaluation/weekly`, sees to that).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines import params
from pipelines.evaluation import evaluation_folder, views
from pipelines.release import audit, growth, registry
from pipelines.release.registry import RegisteredModel
from pipelines.scans import manifest, vocabulary
from pipelines.scans.manifest import TEST
from pipelines.serving.conditions import Conditions
from pipelines.serving.held_out import HeldOut, segment_and_measure
from pipelines.work import project
from pipelines.work.memory import GIB
from pipelines.work.writing import replacing, write_json

FILE = "reevaluation.json"


def reevaluate(model: str) -> dict[str, Any]:
    """What reevaluation.json says: `version`, `cases` (new ones that were measured), `left_out` (how many), `mean_dice`
    and `structures` (rows: structure, dice, then, cases), and `report`. No new scan: `cases` 0, and nothing is written.

    Raises ValueError if the version is not to be had, or its code is not the one that lies here.
    """
    version = registry.find(model)
    told = {"name": version.name, "version": str(version.version), "cases": 0, "left_out": 0}
    if not (new := _new_cases(version)):
        return told
    conditions = Conditions.from_json(version.record["conditions"]).checked()
    here = replace(Conditions.of_here(conditions.overlap), flips=conditions.flips)
    where = project.root() / "reports/reevaluate" / f"{version.name}-{version.version}"
    with replacing(where) as folder:
        predictions = folder / evaluation_folder.PREDICTIONS
        predictions.mkdir(parents=True)
        memory_bytes = int(params.load().preprocess.memory_gib * GIB)
        found = segment_and_measure(version.weights(), here, memory_bytes, predictions, only=new)
        summary = _summary(version, here, found)
        rows = {row.case_id: row for row in manifest.read()}
        evaluation_folder.write(
            folder, found.scores, summary, vocabulary.here(), evaluation_folder.facts_of(summary),
            lambda case: views.of_case(rows[case], {"prediction": predictions / f"{case}.nii.gz"}, found.scores),
            f"{version.name} {version.version} on new scans",
        )  # fmt: skip
        report = where / evaluation_folder.REPORT
        content = {**told, **_compared(version.record, summary), "report": str(report.relative_to(project.root()))}
        write_json(folder / FILE, content)
        look = {"test_set_sha256": manifest.test_set_sha256(), "cases": len(found.cases)}
        audit.append("evaluate", weights_sha256=version.record["weights_sha256"], **look)
    return content


def _new_cases(version: RegisteredModel) -> frozenset[str]:
    known = {row.patient for row in growth.trained_on(version.record_sha256, version.run_id)}
    return frozenset(
        row.case_id
        for row in manifest.usable(manifest.read())
        if row.split == TEST and row.labels and row.patient not in known
    )


def _summary(version: RegisteredModel, conditions: Conditions, found: HeldOut) -> dict[str, Any]:
    if not found.scores:
        raise ValueError(f"no new scan could be measured: {next(iter(found.left_out.values()), 'rerun preprocess')}")
    told = {
        "weights_sha256": version.record["weights_sha256"],
        "identity": version.record["identity"],
        "manifest_sha256": manifest.digest(),
        "test_set_sha256": manifest.test_set_sha256(),
        "conditions": conditions.to_json(),
        "left_out": found.left_out,
    }
    return evaluation_folder.summarised(found.scores, vocabulary.here(), told, found.calibration)


def _compared(record: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """`then`: what the version was registered with, on other scans."""
    rows = [
        {"structure": name, "dice": dice, "then": record["dice"].get(name)} for name, dice in summary["dice"].items()
    ]
    return {
        "cases": summary["cases"],
        "left_out": len(summary["left_out"]),
        "mean_dice": summary["mean_dice"],
        "mean_dice_then": record["mean_dice"],
        "structures": rows,
    }
