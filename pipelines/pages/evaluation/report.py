"""The evaluation report as one HTML file that opens from disk and asks the network for nothing.

    write(path, content)        the same content gives the same bytes

Tables and figures are drawn by our scripts from data inside the file, so that each point knows its row. The page's
policy allows these scripts by their digests and nothing else: text from outside cannot run, whatever it holds.
"""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.pages.evaluation import volumes
from pipelines.pages.evaluation.content import Content, Value
from pipelines.pages.evaluation.volumes import Embedded
from pipelines.pages.templates import render
from pipelines.work.writing import replacing

PICTURES_BYTES = 18_000_000  # of the 25 MB that a report may have
DIGITS = 6
OURS = (  # in the order in which they need each other
    "page.js", "tables.js", "plots.js", "figures.js", "canvas_view.js", "niivue_view.js", "viewer.js", "verdicts.js",
    "start.js",
)  # fmt: skip
NIIVUE, LICENCE = "vendor/niivue-0.69.0.umd.js", "vendor/LICENSE"
COLUMNS = (  # of a row, beside its metrics
    "case_id", "structure", "status", "cut", "source", "modality", "site", "scanner", "slice_mm", "size",
    "reference_ml", "predicted_ml", "confidence", "flip_dice",
)  # fmt: skip


def write(path: Path, content: Content, pictures_bytes: int = PICTURES_BYTES) -> None:
    """`pictures_bytes`: what the viewer's scans may take.

    Raises ValueError for images or layers of wrong type or shape.
    """
    with replacing(path) as temporary:
        temporary.write_text(page(content, pictures_bytes), encoding="utf-8")


def page(content: Content, pictures_bytes: int = PICTURES_BYTES) -> str:
    embedded, too_many = volumes.embed(content.viewed, content.label_list(), pictures_bytes)
    told = _told(content, embedded)
    scripts = [_script(), *([_niivue()] if embedded else [])]
    return render(
        "evaluation.html",
        content=content,
        identity=told["identity"],
        embedded=embedded,
        too_many=too_many,
        pictures=_pictures(content),
        confidence=[_known(each, content) for each in content.confidence],
        policy=_policy(scripts),
        style=_asset("style.css"),
        scripts=_scripts(told, embedded),
    )


def _told(content: Content, embedded: Sequence[Embedded]) -> dict[str, Any]:
    """What the scripts draw from. The identity is of all that is told, the pictures apart."""
    comparison, metrics = content.comparison, [metric.key for metric in content.metrics]
    told = {
        "title": content.title,
        "facts": dict(content.facts),
        "metrics": [asdict(metric) for metric in content.metrics],
        "structures": [asdict(structure) for structure in content.structures],
        "labels": [asdict(label) for label in content.label_list()],
        "columns": _columns(content.rows, (*COLUMNS, *metrics)),
        "summaries": [dict(each) for each in content.summaries],
        "confidence": [dict(each) for each in content.confidence],
        "calibration": content.calibration,
        "comparison": comparison
        and {
            "names": comparison.names,
            "differences": [dict(each) for each in comparison.differences],
            "columns": _columns(comparison.other_rows, (*COLUMNS, *metrics)),
        },
        "left_out": [list(each) for each in content.left_out],
    }
    told = _plain(told)
    viewed = [{key: value for key, value in asdict(each).items() if key != "text"} for each in embedded]
    return {"identity": hashlib.sha256(_json(told).encode()).hexdigest()[:16], **told, "viewed": _plain(viewed)}


def _columns(rows: Sequence[Mapping[str, Value]], keys: Iterable[str]) -> dict[str, list[Value]]:
    """Only these keys: what else a row holds stays out of the page."""
    return {key: [row.get(key) for row in rows] for key in dict.fromkeys(keys)}


def _plain(value: Any) -> Any:
    """For JSON: few digits, None for what is no number, no types of numpy's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _scripts(told: Mapping[str, Any], embedded: Sequence[Embedded]) -> str:
    """Data and our script, then as inert text what is only needed to look at scans: the page is usable before.

    ASCII JSON without `<` cannot end its element.
    """
    text = _json(told).replace("<", "\\u003c")
    parts = [f'<script type="application/json" id="data">{text}</script>', f"<script>{_script()}</script>"]
    if embedded:
        parts.append(f'<script type="text/plain" id="code-of-niivue">{_niivue()}</script>')
    for number, each in enumerate(embedded):
        parts.append(f'<script type="text/plain" id="volume-{number}">{each.text}</script>')
    return "\n".join(parts)


@cache
def _script() -> str:
    return '(() => {\n"use strict";\n' + "\n".join(_asset(name) for name in OURS) + "})();\n"


@cache
def _niivue() -> str:
    """With its licence, which goes with every copy."""
    return f"/*\n{_asset(LICENCE)}*/\n{_asset(NIIVUE)}"


@cache
def _asset(name: str) -> str:
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    assert "</script" not in text.lower()  # it would end the element that holds it
    return text


def _policy(scripts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _known(each: Mapping[str, Any], content: Content) -> dict[str, str]:
    """A row of the table on confidence."""
    curve, volume = each.get("risk_coverage") or {}, each.get("volume") or {}
    aurc, random = curve.get("aurc"), curve.get("aurc_random")
    return {
        "shown": next((one.shown for one in content.structures if one.name == each["structure"]), each["structure"]),
        "spearman": _figure(each.get("spearman"), "{:.2f}"),
        "aurc": _figure(aurc, "{:.4f}"),
        "share": _figure(aurc / random if aurc is not None and random else None, "{:.0%}"),
        "told": volume.get("told") or volume.get("note") or "",
        "coverage": _figure(volume.get("measured_coverage"), "{:.1%}"),
        "n": _figure(volume.get("n"), "{:.0f}"),
    }


def _figure(value: float | None, shape: str) -> str:
    return "\N{EN DASH}" if value is None or not math.isfinite(value) else shape.format(value)


def _pictures(content: Content) -> list[tuple[str, str]]:
    pictures = content.comparison.pictures if content.comparison else ()
    return [(title, f"data:image/png;base64,{base64.b64encode(png).decode()}") for title, png in pictures]
