"""The certificate on one page: the verdict, memory over a step, what it is made of, where the time goes.

One HTML file without scripts or anything from elsewhere; the pictures are inline SVG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from model.certificate.memory import CATEGORIES

COLOURS = dict(zip(CATEGORIES, ("#0b3c5d", "#328cc1", "#6aa84f", "#d9822b", "#8e44ad", "#b0bec5"), strict=True))
WIDTH, HEIGHT, MARGIN = 860, 260, 46
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.1em;margin-top:1.6em}table{border-collapse:collapse}td,th{padding:2px 14px 2px 0;
text-align:left;vertical-align:top}td.n{text-align:right}.yes{color:#2e7d32}.no{color:#b71c1c}small{color:#666}
svg{width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:#444}"""


def page(content: Mapping[str, Any]) -> str:
    """HTML of a certificate's content, as `report.certificate` makes it."""
    verdict = "fits" if content["fits"] else "does not fit"
    title = f"{content['preset']} on {content['ranks']} {content['gpu']['name']}: {verdict}"
    parts = [
        f"<h1>Launch certificate: <span class={'yes' if content['fits'] else 'no'}>{escape(title)}</span></h1>",
        _paragraphs([*content["faults"], *content["reasons"]]),
        "<h2>The run</h2>", _table(_facts(content)),
        "<h2>Memory of one GPU during a step</h2>", _memory_pictures(content["memory"]),
        "<h2>Where the time goes</h2>", _bars(content["time"]["kernel_seconds"], "s"),
        "<h2>FLOPs of one GPU in a step</h2>",
        _bars({name: count / 1e12 for name, count in content["time"]["flops_by_part"].items()}, "TFLOP"),
        "<h2>Messages of one GPU in a step</h2>", _messages(content["time"]["messages"]),
        "<h2>Every way</h2>", _ways(content["ways"]),
        f"<p><small>Bound to parameters and code: sha256 {content['digest']}. GPU: {escape(content['gpu']['source'])}. "
        "The method and its limits: docs/certificate.md.</small></p>",
    ]  # fmt: skip
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
    return head + "\n".join(parts) + "</html>\n"


def _facts(content: Mapping[str, Any]) -> dict[str, str]:
    memory, time, run, storage = content["memory"], content["time"], content["run"], content["storage"]
    low, high = time["model_flops_utilisation_range"]
    published = ", ".join(f"{value:.1%} ({name})" for name, value in time["published_model_flops_utilisation"].items())
    return {
        "network": f"{content['parameters'] / 1e9:.3f} billion parameters, {content['classes']} classes",
        "batch": f"{content['global_batch']} patches of {content['patch']} voxels, {content['channels']} channels, "
        f"{content['precision']}; micro-batch {content['micro_batch']}, accumulated {content['accumulation']} times",
        "sharing": f"{content['strategy']}, {content['group']} ranks to a copy of the weights; "
        f"activation checkpointing {content['activation_checkpointing']}",
        "peak": f"{content['peak_memory_gib']:.1f} GiB in the {memory.get('peak_in', 'step')}",
        "reserve": f"{memory['reserve_gib']:.1f} GiB: {memory['reserve']}",
        "to spare": f"{content['spare_fraction']:.1%} of {memory['capacity_gib']:.1f} GiB",
        "step": f"{content['step_time_s']:.2f} s planned ({time['step_time_range_s'][0]:.2f} s with better kernels), "
        f"{time['communication_share']:.1%} of it waiting for messages",
        "model FLOP utilisation": f"{low:.1%} planned, {high:.1%} with better kernels; published: {published}",
        "duration": f"{run['steps']:,} steps, {run['epochs']:.0f} epochs: {content['days']:.1f} days; "
        f"{run['within_days']:g} days would hold {run['steps_possible']:,} steps",
        "cost": f"{run['gpu_hours']:,.0f} GPU-hours, {run['energy_kwh']:,.0f} kWh (machines at their maximum)",
        "storage": f"{storage['total_tb']:.1f} TB: {storage['scans']:,} scans, three checkpoints of "
        f"{storage['checkpoint_gb']:.0f} GB",
        "loader": f"{storage['read_gb_per_s']:.2f} GB/s in all, {storage['read_gb_per_s_a_node']:.2f} GB/s a node",
    }


def _memory_pictures(memory: Mapping[str, Any]) -> str:
    if "timeline" not in memory:
        return "<p>Only estimated: no timeline.</p>"
    peak = {name: memory["at_peak_gib"][name] for name in CATEGORIES}
    return _timeline(memory) + f"<p>At the peak, in the {escape(memory['peak_in'])}:</p>" + _bars(peak, "GiB", COLOURS)


def _timeline(memory: Mapping[str, Any]) -> str:
    """Stacked areas, the capacity as a line, the parts of the step marked."""
    points, capacity = memory["timeline"], memory["capacity_gib"]
    last, first_mark = points[-1][0] or 1, memory["marks"][0][1]

    def x(number: float) -> float:
        return MARGIN + (WIDTH - MARGIN) * number / last

    def y(gib: float) -> float:
        return HEIGHT - HEIGHT * min(1.0, gib / capacity) * 0.94

    shapes, floor = [], [0.0] * len(points)
    for index, category in enumerate(CATEGORIES):
        top = [below + levels[index] for below, (_, levels) in zip(floor, points, strict=True)]
        edge = [(x(number), y(gib)) for (number, _), gib in zip(points, top, strict=True)]
        back = [(x(number), y(gib)) for (number, _), gib in zip(points, floor, strict=True)]
        outline = " ".join(f"{a:.1f},{b:.1f}" for a, b in edge + back[::-1])
        shapes.append(f'<polygon points="{outline}" fill="{COLOURS[category]}"><title>{category}</title></polygon>')
        floor = top
    for gib in (0, capacity / 2, capacity):
        shapes.append(f'<text x="0" y="{y(gib) + 4:.0f}">{gib:.0f} GiB</text>')
    shapes.append(f'<line x1="{MARGIN}" x2="{WIDTH}" y1="{y(capacity):.1f}" y2="{y(capacity):.1f}" stroke="#b71c1c"/>')
    for name, number in memory["marks"]:
        at = min(x(number - first_mark), WIDTH - 52)
        shapes.append(f'<text x="{at + 3:.0f}" y="{HEIGHT + 16}">{name}</text>')
        shapes.append(
            f'<line x1="{at:.0f}" x2="{at:.0f}" y1="0" y2="{HEIGHT + 16}" stroke="#999" stroke-dasharray="3"/>'
        )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 22}">{"".join(shapes)}</svg>' + _legend()


def _legend() -> str:
    items = (f'<span style="color:{colour}">&#9632;</span> {name}' for name, colour in COLOURS.items())
    return f"<p><small>{' &nbsp; '.join(items)} &nbsp; red line: the GPU's memory</small></p>"


def _bars(values: Mapping[str, float], unit: str, colours: Mapping[str, str] | None = None) -> str:
    largest = max(values.values(), default=0) or 1
    rows = []
    for number, (name, value) in enumerate(values.items()):
        colour = (colours or {}).get(name, "#328cc1")
        width = 430 * value / largest
        rows.append(
            f'<text x="0" y="{20 * number + 14}">{escape(name)}</text>'
            f'<rect x="270" y="{20 * number + 3}" width="{width:.1f}" height="14" fill="{colour}"/>'
            f'<text x="{276 + width:.0f}" y="{20 * number + 14}">{value:.2f} {unit}</text>'
        )
    return f'<svg viewBox="0 0 {WIDTH} {20 * len(values) + 4}">{"".join(rows)}</svg>'


def _messages(messages: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (each["name"], f"over the {each['link']}", f"{each['count']:,} times",
         f"{each['sent_bytes'] / 1e9:.1f} GB sent", f"{each['seconds']:.2f} s")
        for each in messages
    ]  # fmt: skip
    return _rows(rows) if rows else "<p>None.</p>"


def _ways(ways: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (each["way"], "fits" if each["fits"] else "no", f"{each['peak_memory_gib']:.1f} GiB",
         f"{each['step_time_s']:.2f} s" if each["step_time_s"] else "", "; ".join(each["faults"])[:110])
        for each in ways
    ]  # fmt: skip
    return _rows(rows)


def _table(facts: Mapping[str, str]) -> str:
    return _rows(list(facts.items()))


def _rows(rows: Sequence[Sequence[str]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{body}</table>"


def _paragraphs(sentences: Sequence[str]) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
