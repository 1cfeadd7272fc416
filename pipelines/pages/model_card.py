"""The model card on one page: what the version is for, what it was made of, how well it does and where it fails.

page(card, packages) -> str      card: as pipelines/release/card_content.py gathers it; packages: licence -> names
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.pages.templates import render

STATED = {  # how people's words are headed, in the order of the page
    "intended_use": "intended use",
    "out_of_scope": "not meant for",
    "intended_users": "users",
    "how_to_use": "how to use it",
    "population": "patients and scans",
    "benefits": "benefits",
    "risks": "risks, and what is done about them",
    "biases": "who may be served worse",
    "bias_mitigation": "what was done against bias",
    "clinical_risk": "clinical risk",
    "modifications": "what a new version may change",
    "developer": "made by",
    "contact": "contact",
    "availability": "where it may be used",
    "regulatory_approval": "approval",
    "funding": "funding",
    "third_parties": "third parties",
    "consulted": "who was asked",
    "consent": "consent of patients",
    "publications": "publications",
    "security": "security",
}


def page(card: Mapping[str, Any], packages: Mapping[str, Sequence[str]]) -> str:
    return render(
        "model_card.html",
        card=card,
        title=" ".join(filter(None, (card["name"], _version(card)))),
        facts=_facts(card),
        stated={STATED[name]: card["stated"][name] for name in STATED if name not in card["unstated"]},
        unstated=[heading for name, heading in STATED.items() if name in card["unstated"]],
        columns=_columns(card["results"]),
        results=[_row(each, _columns(card["results"])) for each in card["results"]],
        groups=[{**each, "structure": _shown(each["structure"]), "told": _told(each, 3)} for each in card["groups"]],
        failures=[{**each, "structure": _shown(each["structure"])} for each in card["failures"]],
        packages=packages,
    )  # fmt: skip


def _version(card: Mapping[str, Any]) -> str:
    version = card["standing"]["version"]
    return f"version {version}" if version else ""


def _facts(card: Mapping[str, Any]) -> dict[str, str]:
    standing, measured = card["standing"], card["measured"]
    left_out = f"; {measured['left_out']} could not be measured" if measured["left_out"] else ""
    return {
        "standing": f"{standing['word']}{', since ' + standing['since'] if standing['since'] else ''}",
        "gate": "; ".join([standing["verdict"] or "not asked", *standing["reasons"]]),
        "measured on": f"{measured['cases']} held-out scans of {measured['patients']} patients{left_out}",
        "looks at the test set": _looks(standing),
        "record": card["record_sha256"],
        "weights": card["weights_sha256"],
        **({"release plan": card["plan_sha256"]} if card["plan_sha256"] else {}),
        **{name.replace("_sha256", "").replace("_", " "): value for name, value in card["identity"].items() if value},
        **{name.replace("_", " "): value for name, value in card["origin"].items()},
    }


def _looks(standing: Mapping[str, Any]) -> str:
    if standing["looks"] is None:
        return "not counted"
    allowed = f" of {standing['looks_allowed']} allowed" if standing["looks_allowed"] else ""
    return f"{standing['looks']}{allowed}"


def _columns(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of metrics that any structure has, with units."""
    names = [_head(figure) for each in results for figure in each["figures"]]
    return list(dict.fromkeys(names))


def _row(result: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    told = {_head(figure): _told(figure, figure["digits"]) for figure in result["figures"]}
    cases = result["cases"]
    return {
        "structure": _shown(result["structure"]),
        "figures": [told.get(name, ("", "")) for name in columns],
        "found": f"{cases['scored']} of {cases['scored'] + cases['missed']}",
        "invented": cases["invented"],
        "volume": _volume(result["volume"]),
    }


def _volume(told: Mapping[str, float] | None) -> tuple[str, str]:
    if told is None:
        return "", "no interval"
    return f"{told['low']:.2f} to {told['high']:.2f}", f"in {told['level']:.0%} of patients"


def _head(figure: Mapping[str, Any]) -> str:
    return f"{figure['name']}, {figure['unit']}" if figure["unit"] else str(figure["name"])


def _told(told: Mapping[str, Any], digits: int) -> tuple[str, str]:
    """The mean, and below it its interval or why there is none."""
    if told["low"] is None:
        return f"{told['mean']:.{digits}f}", told["note"]
    return f"{told['mean']:.{digits}f}", f"{told['low']:.{digits}f} to {told['high']:.{digits}f}"


def _shown(name: str) -> str:
    return name.replace("_", " ")
