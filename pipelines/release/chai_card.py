"""CHAI's Applied Model Card 0.2: its elements, how they are written, and whether a text has them.

    written({"BasicInfo": {"ModelName": ...}, ...}) -> str        in the published order, checked
    check(text)                                                   ValueError names the element that is wrong

FIELDS lists the elements that the Coalition for Health AI publishes for version 0.2 (https://mc.chai.org). It is
written from that list and is not CHAI's schema file, which is under a licence of its own; optional elements that no
card of ours fills are left out.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
ROOT = "AppliedModelCard"
TEXT, OPTIONAL = "text", "optional text"
_METRIC = {
    "MetricGoal": TEXT,
    "Results": {"MetricResult*": {"Label": TEXT, "ValueJson": TEXT}},
    "Interpretation": TEXT,
    "TestType": TEXT,
    "TestingDataDescription": TEXT,
    "ValidationProcessAndJustification": TEXT,
}
# Element -> its own elements, or the kind of its text. A name with `*` may come several times.
FIELDS: dict[str, Any] = {
    "BasicInfo": {"ModelName": TEXT, "ModelDeveloper": TEXT, "DeveloperContact": TEXT},
    "ReleaseInfo": {
        "ReleaseStage": TEXT,
        "ReleaseDate": TEXT,
        "ReleaseVersion": TEXT,
        "GlobalAvailability": TEXT,
        "RegulatoryApproval": OPTIONAL,
    },
    "ModelSummary": {"Summary": TEXT, "Keywords": {"Keyword*": TEXT}},
    "UsesAndDirections": {
        "IntendedUseAndWorkflow": TEXT,
        "PrimaryIntendedUsers": TEXT,
        "HowToUse": TEXT,
        "TargetedPatientPopulation": TEXT,
        "CautionedOutOfScopeSettings": TEXT,
    },
    "Warnings": {
        "KnownRisksAndLimitations": TEXT,
        "KnownBiasesOrEthicalConsiderations": TEXT,
        "ClinicalRiskLevel": TEXT,
    },
    "TrustIngredients": {
        "AISystemFacts": {
            "OutcomesAndOutputs": TEXT,
            "ModelType": TEXT,
            "InputDataSource": TEXT,
            "OutputAndInputDataTypes": TEXT,
            "DevelopmentDataCharacterization": TEXT,
            "BiasMitigationApproaches": TEXT,
            "OngoingMaintenance": TEXT,
            "Security": OPTIONAL,
            "Transparency": OPTIONAL,
        },
        "TransparencyInformation": {
            "FundingSource": TEXT,
            "ThirdPartyInformation": OPTIONAL,
            "StakeholdersConsulted": TEXT,
        },
    },
    "KeyMetrics": {"UsefulnessUsabilityEfficacy": _METRIC, "FairnessEquity": _METRIC, "SafetyReliability": _METRIC},
    "Resources": {
        "EvaluationReferences": OPTIONAL,
        "PeerReviewedPublications": TEXT,
        "PatientConsentOrDisclosure": TEXT,
    },
    "Bibliography": TEXT,
}


def written(content: Mapping[str, Any]) -> str:
    """The same content gives the same bytes. Raises KeyError if an element's content is missing."""
    root = ElementTree.Element(ROOT, xmlns=NAMESPACE)
    _fill(root, content, FIELDS)
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    told = f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'
    check(told)
    return told


def check(told: str) -> None:
    """Raises ValueError unless it has version 0.2's elements, all that are asked for, in their order."""
    try:
        root = ElementTree.fromstring(told)
    except ElementTree.ParseError as error:
        raise ValueError(f"the model card is no XML ({error})") from None
    if root.tag != f"{{{NAMESPACE}}}{ROOT}":
        raise ValueError(f"the model card begins with {root.tag}, not with {ROOT} of {NAMESPACE}")
    _check(root, FIELDS, ROOT)


def _fill(parent: ElementTree.Element, content: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    for name, kind in fields.items():
        element = name.rstrip("*")
        for value in content[element] if name.endswith("*") else [content[element]]:
            if kind == OPTIONAL and not value:
                continue
            child = ElementTree.SubElement(parent, element)
            if isinstance(kind, dict):
                _fill(child, value, kind)
            else:
                child.text = value


def _check(parent: ElementTree.Element, fields: Mapping[str, Any], told_as: str) -> None:
    children = list(parent)
    for name, kind in fields.items():
        tag, is_list = f"{{{NAMESPACE}}}{name.rstrip('*')}", name.endswith("*")
        own = [children.pop(0)] if children and children[0].tag == tag else []
        while is_list and children and children[0].tag == tag:
            own.append(children.pop(0))
        if not own and kind != OPTIONAL and name != "Keyword*":
            raise ValueError(f"the model card lacks {told_as}/{name.rstrip('*')}")
        for child in own:
            _check(child, kind if isinstance(kind, dict) else {}, f"{told_as}/{name.rstrip('*')}")
    if children:
        raise ValueError(f"the model card has {told_as}/{children[0].tag.rpartition('}')[2]} where none belongs")
