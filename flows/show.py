"""What the commands print for people."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from flows.new_project import Made

COLOURS = {"fresh": "green", "stale": "yellow", "running": "cyan"}


def as_json(content: Any) -> None:
    print(json.dumps(content, indent=2, default=str))


def json_line(content: Any) -> str:
    return json.dumps(content)


def run_summary(result: dict[str, Any]) -> None:
    """Dice by source and structure, the registered version, where to look next."""
    from flows.results import headline

    table = Table("source", "structure", box=box.SIMPLE_HEAD, title="Held-out Dice", title_justify="left")
    table.add_column("Dice", justify="right")
    table.add_column("scans", justify="right")
    for row in result["dice"]:
        table.add_row(row["source"], row["structure"], figure(row["dice"]), str(row["cases"]))
    console = terminal()
    console.print(table)
    console.print(headline(result))
    if told := result.get("cost"):
        console.print(f"Cost of {told}", soft_wrap=True)
    console.print("\nWhere to look next", style="bold")
    version = result["version"] or "VERSION"
    for what, where in (
        ("report", "reports/evaluate/index.html (figures with intervals, every scan to look at)"),
        *_pretraining(),
        ("segment", f"medseg predict SCAN.nii.gz OUT.nii.gz --model models:/{result['name']}/{version}"),
        ("release", f"medseg promote {version} --to clinical-candidate --key KEY"),
        ("curves, runs", "medseg ui"),
    ):
        console.print(f"  {what:<13} {where}", soft_wrap=True)


def _pretraining() -> list[tuple[str, str]]:
    """Where its report lies, unless it was skipped."""
    from pipelines.work import project

    page = project.PRETRAINING_REPORT / "index.html"
    there = (project.root() / page).is_file()
    return [("pretraining", f"{page} (what the encoder made of hidden parts)")] if there else []


def project_made(folder: Path, made: "Made") -> None:
    """What was done, and the next two commands."""
    print(f"{folder} is a project {'now; its README.md says what lies where' if made.is_new else 'already'}")
    for what, names in (("written", made.written), ("left as it is", made.kept)):
        if names and not made.is_new:
            print(f"  {what}: {', '.join(names)}")
    print("Next:")
    print(f"  cd {shlex.quote(str(folder))}\n  medseg run")
    print("\n".join(made.remarks), end="\n" if made.remarks else "")


def stages(status: dict[str, Any]) -> None:
    from flows.status import next_step

    table = Table("stage", "state", box=box.SIMPLE_HEAD)
    for name, state in status["stages"].items():
        table.add_row(name, Text(state, COLOURS[state]))
    console = terminal()
    console.print(table)
    for line in _registered(status):
        console.print(line, soft_wrap=True)
    console.print(f"Next: {next_step(status)}", soft_wrap=True)


def _registered(status: dict[str, Any]) -> list[str]:
    from pipelines.release.registry import NOT_RELEASED
    from pipelines.release.standings import ALIASES

    lines = [f"Parameters: {'profile ' + status['profile'] if status['profile'] else 'params.yaml of your own'}"]
    version = status["registered"]
    if version is None:
        return [*lines, "Registered: nothing yet"]
    aliases = f" ({', '.join(version['aliases'])})" if version["aliases"] else ""
    released = "" if version["standing"] in ALIASES else f", {NOT_RELEASED}"
    belongs = "belongs to" if status["identity_consistent"] else "does NOT belong to"
    return [
        *lines,
        f"Registered: {version['name']} version {version['version']}{aliases}, "
        f"mean Dice {figure(version['mean_dice'])}; it {belongs} what lies here now",
        f"By the signed ledger: {version['standing']}{released}",
        *(f"Not settled: {sentence}" for sentence in version["unsettled"]),
    ]


def in_long_lines(table: Table) -> None:
    """A row a line, as long as it is: for files and pipes."""
    console = Console(width=10_000)
    console.print(table, highlight=False)


def table(content: dict[str, Any]) -> None:
    """A flat or nested mapping as name and value."""
    console = terminal()
    for name, value in content.items():
        shown = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else value
        console.print(f"{name:<32} {shown}", soft_wrap=True)


def settings(rows: list[dict[str, Any]]) -> None:
    """One entry a setting of params.yaml; own changes stand out."""
    table = _entries("setting, value, where from", "may be, and why")
    for row in rows:
        value = json.dumps(row["value"]).replace('"', "")
        style = "yellow" if row["from"] == "own change" else None
        table.add_row(f"{row['key']}\n  {value} ({row['from']})", _meaning(row), style=style)
    terminal().print(table)


def variables(content: dict[str, Any]) -> None:
    """One entry a variable, those that are set first; then what is wrong."""
    table = _entries("variable, value now", "may be, and what for")
    for row in sorted(content["variables"], key=lambda row: row["value"] is None):
        style = "red" if row["problem"] else None if row["value"] is None else "bold"
        table.add_row(f"{row['name']}\n  {row['value'] or 'unset: ' + row['default']}", _meaning(row), style=style)
    console = terminal()
    console.print(table)
    for remark in [*(row["problem"] for row in content["variables"] if row["problem"]), *content["unknown"]]:
        console.print(remark, soft_wrap=True)


def _entries(what: str, meaning: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(what, max_width=60, overflow="fold")
    table.add_column(meaning, max_width=80, overflow="fold")
    return table


def _meaning(row: dict[str, Any]) -> str:
    bound = f" ({row['bound']})" if row["bound"] else ""
    return f"{row['type']}{bound}: {row['description']}"


def terminal() -> Console:
    """Prints what it is given: a file may be called `a[/b]c.nii.gz`, which is no markup."""
    return Console(markup=False, highlight=False)


def figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
