"""What a model card says, gathered once: the XML, the page and the metadata are spellings of it.

    gather(dossier, {"version": "3", "word": "candidate", "looks": 4}, statements) -> dict, as JSON

From the version's dossier alone: its record, its evaluation, the manifest of its scans and the plan of its release.
Cases and patients go by pseudonym or as counts.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.evaluation import tables
from pipelines.evaluation.definitions import METRICS
from pipelines.evaluation.score import Score
from pipelines.release import licences, plan, record
from pipelines.release.card_statements import NOT_STATED, Statements
from pipelines.release.plan import ReleasePlan
from pipelines.scans import manifest
from pipelines.scans.manifest import SPLITS, Row

RELEASED = ("clinical-candidate", "champion")
WORST = 10  # cases named as known failures
TO_BE_FILLED = "Fill in:"  # begins what a plan has from its template


def gather(dossier: Path, standing: Mapping[str, Any], statements: Statements) -> dict[str, Any]:
    """`standing`: what is known of the version beyond its dossier: version, word (of the ledger), since, looks (at the
    test set), verdict and reasons (of the gate), problem (of the ledger); any may be missing.

    Raises ValueError if a file of the dossier is missing or is not of this version of the program.
    """
    content = _json(dossier / "record.json")
    metrics, details = (_json(dossier / "evaluation" / name) for name in ("metrics.json", "details.json"))
    scores = tables.read(dossier / "evaluation" / tables.PARQUET)
    rows = manifest.read(dossier / "lineage" / "manifest.parquet")
    licensed = licences.of_sources({row.source for row in rows}, statements.licences)
    decided_by = _plan(dossier)
    texts = {**statements.texts(), **_of_plan(decided_by)}
    return {
        "name": content["name"],
        "record_sha256": record.digest(content),
        "weights_sha256": content["weights_sha256"],
        "weights_files": content["weights_files"],
        "plan_sha256": plan.digest(decided_by) if decided_by else "",
        "standing": {**_standing(standing), "looks_allowed": decided_by.bounds.looks_allowed if decided_by else None},
        "stated": {name: text or NOT_STATED for name, text in texts.items()},
        "unstated": sorted(name for name, text in texts.items() if not text),
        "keywords": list(statements.keywords),
        "structures": content["structures"],
        "told": metrics["told"],
        "measured": {"cases": metrics["cases"], "patients": metrics["patients"], "left_out": len(metrics["left_out"])},
        "data": [_source(each, rows) for each in licensed],
        "results": [_result(name, told, content["volume"].get(name)) for name, told in metrics["structures"].items()],
        "groups": list(_groups(details["groups"])),
        "calibration_error": (details["calibration"] or {}).get("expected_error"),
        "limits": list(_limits(content, metrics, rows, licensed)),
        "failures": _failures(scores),
        "conditions": content["conditions"],
        "identity": content["identity"],
        "origin": _origin(dossier),
    }


def _standing(told: Mapping[str, Any]) -> dict[str, Any]:
    word = told.get("word") or "not released"
    return {
        "version": str(told.get("version") or ""),
        "word": word,
        "released": word in RELEASED,
        "since": told.get("since") or "",
        "looks": told.get("looks"),
        "verdict": told.get("verdict") or "",
        "reasons": list(told.get("reasons") or ()),
        "problem": told.get("problem") or "",
    }


def _plan(dossier: Path) -> ReleasePlan | None:
    path = dossier / "lineage" / "release-plan.yaml"
    return plan.parse(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None


def _of_plan(decided_by: ReleasePlan | None) -> dict[str, str]:
    """What the release plan says beforehand, as text; empty where it says nothing, or what its template says."""
    told: dict[str, Sequence[str]] = dict.fromkeys(
        ("intended_use", "out_of_scope", "modifications", "benefits", "risks"), ()
    )
    if decided_by:
        changes, impact = decided_by.description_of_modifications, decided_by.impact_assessment
        told = {
            "intended_use": (changes.intended_use,),
            "out_of_scope": (changes.not_intended, *changes.not_covered),
            "modifications": (*changes.modifications, decided_by.modification_protocol.update),
            "benefits": impact.benefits,
            "risks": [f"{each.risk} Against it: {each.mitigation}" for each in impact.risks],
        }
    return {
        name: "\n".join(line.strip() for line in lines if not line.startswith(TO_BE_FILLED))
        for name, lines in told.items()
    }


def _source(licence: licences.SourceLicence, rows: Sequence[Row]) -> dict[str, Any]:
    own = [row for row in rows if row.source == licence.source]
    usable = manifest.usable(own)
    return {
        **asdict(licence),
        "modalities": sorted({name for row in usable for name in row.modalities}),
        "scans": {split: sum(row.split == split for row in usable) for split in SPLITS},
        "patients": {split: len({row.patient for row in usable if row.split == split}) for split in SPLITS},
        "quarantined": sum(bool(row.quarantined) and not row.set_aside for row in own),
    }


def _result(name: str, told: Mapping[str, Any], volume: Mapping[str, Any] | None) -> dict[str, Any]:
    figures = [
        {"metric": each.key, "name": each.name, "unit": each.unit, "digits": each.digits, **_interval(told[each.key])}
        for each in METRICS
        if each.key in told
    ]
    found = told["found"]
    return {
        "structure": name,
        "cases": told["cases"],
        "tolerance_mm": told["tolerance_mm"],
        "figures": figures,
        "found": _interval({**found, "mean": found["estimate"]}),
        "volume": _volume(volume),
    }


def _interval(told: Mapping[str, Any]) -> dict[str, Any]:
    return {key: told[key] for key in ("mean", "low", "high", "n", "note")}


def _volume(told: Mapping[str, Any] | None) -> dict[str, float] | None:
    """By what factor the true volume may differ from the predicted one, in which share of patients."""
    if not told or told["lower_factor"] is None:
        return None
    return {"low": told["lower_factor"], "high": told["upper_factor"], "level": told["level"]}


def _groups(groups: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Dice, group by group; the report beside the card has the other figures."""
    for kind, values in groups.items():
        for value, structures in values.items():
            for name, told in structures.items():
                if "dice" in told:
                    missed = told["cases"]["missed"]
                    yield {"kind": kind, "group": value, "structure": name, "missed": missed, **_interval(told["dice"])}


def _limits(
    content: Mapping[str, Any],
    metrics: Mapping[str, Any],
    rows: Sequence[Row],
    licensed: Sequence[licences.SourceLicence],
) -> Iterator[str]:
    sources = sorted({row.source for row in rows})
    yield f"Trained and measured on scans of {', '.join(sources)}; nothing is known of others."
    if all(source.startswith(licences.PHANTOM) for source in sources):
        yield "All scans are phantoms that a program drew: its figures say nothing of patients."
    for name in sorted(set(content["structures"]) - metrics["structures"].keys()):
        yield f"{_shown(name)} is trained and was never measured: no held-out scan is annotated with it."
    measured = metrics["structures"].items()
    if few := [_shown(name).lower() for name, told in measured if told.get("dice", {}).get("note")]:
        yield f"Too few patients for an interval: Dice of {', '.join(few)}."
    for name, told in measured:
        if told["warnings"]:
            yield f"{_shown(name)}. {' '.join(told['warnings'])}"
    for reason, count in Counter(metrics["left_out"].values()).items():
        yield f"Held-out scans that could not be measured: {count} ({reason})."
    if closed := [each.source for each in licensed if each.forbids_commerce]:
        yield f"Trained on data that is licensed for non-commercial use only: {', '.join(closed)}."
    if unknown := [each.source for each in licensed if each.is_unknown]:
        yield f"The licence of training data is unknown: {', '.join(unknown)}."


def _failures(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """The worst there are: what was missed or invented, then the lowest Dice."""
    present = [score for score in scores if score.present]
    ranked = sorted(present, key=lambda score: (score.dice, score.case_id, score.structure))
    return [
        {
            "case_id": each.case_id,
            "source": each.source,
            "structure": each.structure,
            "status": each.status,
            "dice": each.dice,
            "reference_ml": each.reference_ml,
            "predicted_ml": each.predicted_ml,
        }
        for each in ranked[:WORST]
    ]


def _origin(dossier: Path) -> dict[str, str]:
    """Commit and program; who they are that made it stands in the ledger."""
    path = dossier / "lineage" / "origin.json"
    told = _json(path) if path.is_file() else {}
    return {name: str(told[name]) for name in ("git_commit", "program", "processor") if told.get(name)}


def _shown(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; the dossier of this version is not whole") from None
