"""What the gate says, what it can show, and by which plan: on a terminal and on a page."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from flows.show import terminal

if TYPE_CHECKING:
    from pipelines.release.power import GatePower

COLOURS = {"passes": "green", "fails": "red", "cannot tell": "yellow"}


def verdict(answer: Mapping[str, Any]) -> None:
    """A line a check, those that do not pass last; then why."""
    against = f"against {answer['champion']}" if answer["champion"] else "against no champion"
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("check", no_wrap=True)
    table.add_column("of", overflow="fold")
    table.add_column("metric", overflow="fold")
    for heading in ("found", "at least", "plan", ""):
        table.add_column(heading, justify="right")
    for check in sorted(answer["checks"], key=lambda check: list(COLOURS).index(check["result"])):
        where = ", ".join(part for part in (check["structure"], check["group"]) if part)
        figures = (_figure(check[key]) for key in ("value", "low", "bound"))
        table.add_row(check["name"], where, check["metric"], *figures, check["result"], style=COLOURS[check["result"]])
    terminal().print(table)
    for reason in answer["reasons"]:
        terminal().print(f"  {reason}", soft_wrap=True)
    print(f"{answer['version']} as {answer['alias']}, {against}: {answer['verdict']}")


def power_table(found: "GatePower") -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in next(rows(found)):
        table.add_column(heading, overflow="fold", min_width=8)
    for row in rows(found):
        table.add_row(*row.values())
    terminal().print(table)
    print(assumption(found))


def power_page(found: "GatePower", path: Path) -> None:
    from pipelines.pages import power_curves
    from pipelines.work.writing import replacing

    curves = {f"{patients} patients": curve for patients, curve in found.together().items()}
    with replacing(path) as temporary:
        temporary.write_text(power_curves.page(curves, list(rows(found)), assumption(found)), encoding="utf-8")


def rows(found: "GatePower") -> Iterator[dict[str, str]]:
    from pipelines.release.power import TOLD

    names = ("as good", "margin/2 worse", "margin worse")
    for rate in found.rates:
        where = ", ".join(part for part in (rate.structure, rate.group) if part)
        passes = {name: rate.note or f"{rate.passes[share]:.1%}" for name, share in zip(names, TOLD, strict=True)}
        margin = "" if rate.margin is None else f"{rate.margin:g}"
        yield {"patients": str(rate.patients), "comparison": where, "metric": rate.metric, "margin": margin, **passes}


def assumption(found: "GatePower") -> str:
    told = f"How often a version passes, told from the figures of {found.patients} patients"
    if found.agreement is None:
        return f"{told} by two versions."
    return f"{told} by one version; two are taken to agree by a correlation of {found.agreement:g}."


def plan_text(content: Mapping[str, Any]) -> None:
    print(content["text"])
    print(f"# sha256 of its content: {content['plan_sha256']}")
    print(f"# signed last: {content['signed'] or 'none, so the one that training notes is in force'}")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
