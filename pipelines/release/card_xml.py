"""The model card in the words of CHAI's Applied Model Card (pipelines/release/chai_card.py).

    text(card) -> str          card: as pipelines/release/card_content.py gathers it

A result's `ValueJson` has the forms that CHAI's examples have: an estimate with its interval, or a single value.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.release import chai_card

_VALIDATION = (
    "Split by patient; means with 95 % intervals drawn by patient, where there are enough for an interval to hold what "
    "it says; a missed structure counts as the worst case."
)


def text(card: Mapping[str, Any]) -> str:
    return chai_card.written(_content(card))


def _content(card: Mapping[str, Any]) -> dict[str, Any]:
    stated, standing = card["stated"], card["standing"]
    return {
        "BasicInfo": {
            "ModelName": card["name"],
            "ModelDeveloper": stated["developer"],
            "DeveloperContact": stated["contact"],
        },
        "ReleaseInfo": {
            "ReleaseStage": standing["word"] if standing["released"] else f"{standing['word']}: not for clinical use",
            "ReleaseDate": standing["since"] if standing["released"] else "Not released",
            "ReleaseVersion": f"{standing['version']} (record {card['record_sha256']})".strip(),
            "GlobalAvailability": stated["availability"],
            "RegulatoryApproval": _said(card, "regulatory_approval"),
        },
        "ModelSummary": {"Summary": " ".join(card["told"]), "Keywords": {"Keyword": _keywords(card)}},
        "UsesAndDirections": {
            "IntendedUseAndWorkflow": stated["intended_use"],
            "PrimaryIntendedUsers": stated["intended_users"],
            "HowToUse": stated["how_to_use"],
            "TargetedPatientPopulation": stated["population"],
            "CautionedOutOfScopeSettings": stated["out_of_scope"],
        },
        "Warnings": {
            "KnownRisksAndLimitations": _lines([_said(card, "risks"), *card["limits"]]),
            "KnownBiasesOrEthicalConsiderations": stated["biases"],
            "ClinicalRiskLevel": stated["clinical_risk"],
        },
        "TrustIngredients": _trust(card),
        "KeyMetrics": _metrics(card),
        "Resources": {
            "EvaluationReferences": "The evaluation report of this version; docs/metrics.md of the program.",
            "PeerReviewedPublications": stated["publications"],
            "PatientConsentOrDisclosure": stated["consent"],
        },
        "Bibliography": _said(card, "bibliography"),
    }


def _trust(card: Mapping[str, Any]) -> dict[str, Any]:
    stated, structures = card["stated"], ", ".join(_shown(each["structure"]) for each in card["results"])
    return {
        "AISystemFacts": {
            "OutcomesAndOutputs": f"A label map on the scan's own grid: {structures}.",
            "ModelType": f"3-D segmentation network; weights sha256 {card['weights_sha256']}.",
            "InputDataSource": _lines(
                f"{each['source']}: {each['licence']}, {each['told_by']}" for each in card["data"]
            ),
            "OutputAndInputDataTypes": f"In: volumes of {', '.join(_modalities(card))}. Out: a label map.",
            "DevelopmentDataCharacterization": _lines(map(_characterised, card["data"])),
            "BiasMitigationApproaches": stated["bias_mitigation"],
            "OngoingMaintenance": stated["modifications"],
            "Security": _said(card, "security"),
            "Transparency": _lines(f"{name}: {told}" for name, told in {**card["identity"], **card["origin"]}.items()),
        },
        "TransparencyInformation": {
            "FundingSource": stated["funding"],
            "ThirdPartyInformation": _said(card, "third_parties"),
            "StakeholdersConsulted": stated["consulted"],
        },
    }


def _metrics(card: Mapping[str, Any]) -> dict[str, Any]:
    results = card["results"]
    overlap = [
        _value(f"{figure['name']}, {_shown(each['structure'])}", figure)
        for each in results
        for figure in each["figures"]
        if figure["metric"] in ("dice", "surface_dice")
    ]
    groups = [
        _value(f"Dice, {_shown(each['structure'])}, {each['kind']} {each['group']}", each) for each in card["groups"]
    ]
    found = [_value(f"Found at all, {_shown(each['structure'])}", each["found"]) for each in results]
    missed = [_single(f"Missed, {_shown(each['structure'])}", each["cases"]["missed"]) for each in results]
    worst = _lines(["The worst cases:", *map(_failed, card["failures"])])
    alike = "Kinds of groups that do not split the scans are left out."
    return {
        "UsefulnessUsabilityEfficacy": _metric(card, "Overlap with the reference.", overlap, " ".join(card["told"])),
        "FairnessEquity": _metric(card, "No group is served worse.", groups, alike),
        "SafetyReliability": _metric(card, "No structure is missed.", found + missed, worst),
    }


def _failed(case: Mapping[str, Any]) -> str:
    return f"`{case['case_id']}`: {_shown(case['structure'])} {case['status']}, Dice {case['dice']:.3f}"


def _metric(card: Mapping[str, Any], goal: str, results: list[dict[str, str]], interpretation: str) -> dict[str, Any]:
    measured, looks = card["measured"], card["standing"]["looks"]
    seen = "" if looks is None else f" They were looked at {looks} times."
    return {
        "MetricGoal": goal,
        "Results": {"MetricResult": results or [_single("Figures", 0)]},
        "Interpretation": interpretation,
        "TestType": f"Retrospective, on held-out scans that no network was trained on.{seen}",
        "TestingDataDescription": _lines(
            [f"{measured['cases']} scans of {measured['patients']} patients.", *map(_held_out, card["data"])]
        ),
        "ValidationProcessAndJustification": _VALIDATION,
    }


def _value(label: str, told: Mapping[str, Any]) -> dict[str, str]:
    if told["low"] is None:
        return _single(label, told["mean"])
    interval = {"estimate": told["mean"], "lower": told["low"], "upper": told["high"], "level": 95}
    return {"Label": label, "ValueJson": json.dumps({"kind": "estimate_ci", **interval}, allow_nan=False)}


def _single(label: str, value: float | None) -> dict[str, str]:
    return {"Label": label, "ValueJson": json.dumps({"kind": "single", "value": value}, allow_nan=False)}


def _characterised(data: Mapping[str, Any]) -> str:
    patients, scans = data["patients"], data["scans"]
    return (
        f"{data['source']}: {scans['train']} scans of {patients['train']} patients to train, {scans['validation']} of "
        f"{patients['validation']} to watch; {', '.join(data['modalities'])}; {data['quarantined']} refused"
    )


def _held_out(data: Mapping[str, Any]) -> str:
    return f"{data['source']}: {data['scans']['test']} of {data['patients']['test']} patients"


def _keywords(card: Mapping[str, Any]) -> list[str]:
    return [*card["keywords"], *_modalities(card), *(_shown(each["structure"]) for each in card["results"])]


def _modalities(card: Mapping[str, Any]) -> list[str]:
    return sorted({name for each in card["data"] for name in each["modalities"]})


def _said(card: Mapping[str, Any], name: str) -> str:
    """Empty where nobody said anything."""
    return "" if name in card["unstated"] else str(card["stated"][name])


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(line for line in lines if line)


def _shown(name: str) -> str:
    return name.replace("_", " ")
