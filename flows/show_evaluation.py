"""Figures of an evaluation, and of a comparison, on a terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from flows.show import terminal

SHOWN = {
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "hd95_mm": "HD95, mm",
    "volume_error_percent": "volume error, %",
}
DIGITS = {"hd95_mm": 1, "volume_error_percent": 1}


def figures(content: Mapping[str, Any]) -> None:
    """A line a structure: means with their intervals, how many were missed."""
    table = Table("structure", box=box.SIMPLE_HEAD)
    for heading in (*SHOWN.values(), "scans", "missed", "absent"):
        table.add_column(heading, justify="right")
    for name, found in content["structures"].items():
        cases = found["cases"]
        drawn = cases["scored"] + cases["missed"] + cases["invented"]
        told = [_interval(found.get(key), DIGITS.get(key, 3)) for key in SHOWN]
        table.add_row(name, *told, str(drawn), str(cases["missed"]), str(cases["absent"]))
    terminal().print(table)


def differences(content: Mapping[str, Any]) -> None:
    """The first's minus the other's: structures by metrics that are shown."""
    table = Table("structure", "metric", box=box.SIMPLE_HEAD, title=f"{content['first']} minus {content['other']}")
    for heading in ("difference", "better", "equal", "worse", ""):
        table.add_column(heading, justify="right")
    for each in content["differences"]:
        if each["metric"] in SHOWN:
            told = _interval(each, DIGITS.get(each["metric"], 3))
            counts = (str(each[key]) for key in ("better", "equal", "worse"))
            table.add_row(each["structure"], SHOWN[each["metric"]], told, *counts, each["note"])
    terminal().print(table)
    print(f"{content['cases']} scans of both, {len(content['cases_of_one_alone'])} of one alone")
    print(f"Report: {content['report']}")


def again(content: Mapping[str, Any]) -> None:
    """A version on new scans, beside what it was registered with."""
    version = f"{content['name']} version {content['version']}"
    if not content["cases"]:
        print(f"{version}: no labelled held-out scan of a patient that it does not know")
        return
    table = Table("structure", box=box.SIMPLE_HEAD, title=f"{version} on {content['cases']} new scans")
    for heading in ("Dice", "when registered"):
        table.add_column(heading, justify="right")
    for row in content["structures"]:
        table.add_row(row["structure"], *("-" if row[key] is None else f"{row[key]:.3f}" for key in ("dice", "then")))
    terminal().print(table)
    print(f"Report: {content['report']}")


def _interval(figure: Mapping[str, Any] | None, digits: int) -> str:
    if not figure or figure["mean"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['mean']:.{digits}f}"
    return f"{figure['mean']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"
