"""Words for what people may type and what was wrong with it; shared by parameters and environment."""

import difflib
from collections.abc import Iterable
from typing import Any

FEW = 40
KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "word",
    "boolean": "true or false",
    "path": "path",
    "password": "secret",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'steps'?`, or the known names if none is near and they are few, or nothing."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}" if 0 < len(names) <= FEW else ""


def counted(count: int, noun: str) -> str:
    """`1 slice`, `2 slices`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def by_reason(entries: Iterable[tuple[str, str]]) -> list[str]:
    """(name, reason) as `name: reason`, a reason that several share once: `name and 9 more: reason`."""
    names: dict[str, list[str]] = {}
    for name, reason in entries:
        names.setdefault(reason, []).append(name)
    return [
        f"{first}{f' and {len(others)} more' if others else ''}: {reason}" for reason, (first, *others) in names.items()
    ]


def listed(entries: Iterable[tuple[str, str]], most: int = 5) -> str:
    """The same in one line, as errors are, cut after some."""
    told = by_reason(entries)
    return "; ".join(told[:most]) + (f"; and {len(told) - most} more reasons, in the log" if len(told) > most else "")


def short(value: object) -> str:
    """As Python would write it, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def type_and_bound(node: dict[str, Any]) -> tuple[str, str]:
    """Type and bound of a value in words, from its JSON schema."""
    if "anyOf" in node:
        kind, bound = type_and_bound(node["anyOf"][0])
        return f"{kind}, or auto", bound
    if "additionalProperties" in node:
        kind, bound = type_and_bound(node["additionalProperties"])
        return f"by name: {kind}", bound
    if items := node.get("prefixItems"):
        kind, bound = type_and_bound(items[0])
        return f"{len(items)} {kind}s", bound
    if "items" in node:
        kind, bound = type_and_bound(node["items"])
        return f"list of {kind}s", bound
    if "enum" in node:
        return KINDS[node.get("format", node["type"])], ", ".join(map(str, node["enum"]))
    return KINDS[node.get("format", node["type"])], node.get("pattern") or _range(node)


def _range(node: dict[str, Any]) -> str:
    limits = {
        name: f"{node[key]:,}" if isinstance(node[key], int) else f"{node[key]:g}"
        for name, key in (
            ("at least", "minimum"),
            ("above", "exclusiveMinimum"),
            ("at most", "maximum"),
            ("below", "exclusiveMaximum"),
        )
        if key in node
    }
    if set(limits) == {"at least", "at most"}:
        return f"{limits['at least']} to {limits['at most']}"
    return ", ".join(f"{name} {limit}" for name, limit in limits.items())
