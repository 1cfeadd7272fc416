"""What `medseg predict` prints: each result once it is there, and at the end what became of every scan."""

import sys
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows import show

if TYPE_CHECKING:
    from pipelines.serving.prediction import Outcome, Prediction

MOST_ROWS, MOST_VOLUMES = 40, 3  # of scans without a fault; of structures, the largest


def print_results(prediction: "Prediction", version: dict[str, Any], as_json: bool) -> None:
    """Paths or JSON on stdout, the table on stderr. Raises ValueError at the end if any scan failed."""
    outcomes: list[Outcome] = []
    try:
        for outcome in prediction.outcomes():
            outcomes.append(outcome)
            for path in outcome.written:
                print(show.json_line({"path": str(path), **version}) if as_json else path, flush=True)
    finally:
        if as_json:
            print(show.json_line({**version, **summary(outcomes, prediction.done_before)}), flush=True)
        elif len(outcomes) > 1:
            _console().print(table(outcomes))


def _console() -> Console:
    """Reasons are no markup: they hold bounds in brackets."""
    return Console(stderr=True, markup=False, highlight=False, width=None if sys.stderr.isatty() else 160)


def summary(outcomes: "list[Outcome]", done_before: int) -> dict[str, Any]:
    refused = sum(bool(outcome.failure) for outcome in outcomes)
    scans = [outcome.to_json() for outcome in outcomes]
    return {"done": len(scans) - refused, "refused": refused, "done_before": done_before, "scans": scans}


def table(outcomes: "list[Outcome]") -> Table:
    """Every scan that was refused; of the others the first, worst confidence first if they are many."""
    refused = [outcome for outcome in outcomes if outcome.failure]
    done = [outcome for outcome in outcomes if not outcome.failure]
    left_out = max(0, len(done) - MOST_ROWS)
    if left_out:
        done = sorted(done, key=lambda outcome: lowest(outcome)[1])[:MOST_ROWS]
    caption = f"and {left_out} more scans, each more confident than these" if left_out else None
    shown = Table("scan", "found", "volume, ml", "least confident", "told", box=box.SIMPLE_HEAD, caption=caption)
    shown.add_column("s", justify="right")
    for outcome in done:
        found, name = found_in(outcome), lowest(outcome)[0]
        least = f"{name} {outcome.structures[name]['confidence']:.2f}" if name else ""
        cells = [outcome.scan, f"{len(found)} of {len(outcome.structures)}", _volumes(outcome), least]
        shown.add_row(*cells, "; ".join(outcome.notes), f"{outcome.seconds:.1f}")
    for outcome in refused:
        shown.add_row(outcome.scan, Text("refused", "red"), "", "", outcome.failure, f"{outcome.seconds:.1f}")
    return shown


def found_in(outcome: "Outcome") -> dict[str, float]:
    """Volume by structure, the largest first."""
    volumes = {name: each["volume_ml"] for name, each in outcome.structures.items() if each["volume_ml"]}
    return dict(sorted(volumes.items(), key=lambda each: -each[1]))


def lowest(outcome: "Outcome") -> tuple[str, float]:
    """The found structure of the least confidence; an empty name where there is none."""
    sure = {name: outcome.structures[name]["confidence"] for name in found_in(outcome)}
    known = [(name, value) for name, value in sure.items() if value is not None]
    return min(known, key=lambda each: each[1], default=("", 2.0))


def _volumes(outcome: "Outcome") -> str:
    found = list(found_in(outcome).items())
    told = [f"{name} {volume:.3g}" for name, volume in found[:MOST_VOLUMES]]
    return ", ".join(told) + (f", {len(found) - MOST_VOLUMES} more" if len(found) > MOST_VOLUMES else "")
