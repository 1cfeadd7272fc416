"""How often a gate passes, by the true difference of two versions: one page, its curves as inline SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.pages.templates import render

COLOURS = ("#3568a8", "#e69f00", "#4c9f70", "#b266c9", "#56b4e9", "#8d98a5")
LEFT, WIDTH, HEIGHT = 46, 760, 300
Curve = Mapping[float, float]


def page(curves: Mapping[str, Curve], rows: Sequence[Mapping[str, Any]], assumed: str) -> str:
    """`curves`: name -> true difference in margins -> share that passes. `rows`: of the table, by column."""
    shares = sorted({share for curve in curves.values() for share in curve})
    left, right = shares[0], shares[-1]

    def x(share: float) -> float:
        return LEFT + (share - left) / (right - left) * (WIDTH - LEFT)

    drawn = [
        (name, COLOURS[number % len(COLOURS)], _line([(x(share), curve[share]) for share in sorted(curve)]))
        for number, (name, curve) in enumerate(curves.items())
    ]
    marks = [(x(share), f"{share:g}") for share in shares if share * 2 == int(share * 2)]
    levels = [(HEIGHT * (1 - level), f"{level:.0%}") for level in (0, 0.25, 0.5, 0.75, 1)]
    return render(
        "power_curves.html", curves=drawn, marks=marks, margin_x=x(-1.0), rows=rows, assumed=assumed, left=LEFT,
        width=WIDTH, height=HEIGHT, levels=levels,
    )  # fmt: skip


def _line(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{HEIGHT * (1 - share):.1f}" for x, share in points)
