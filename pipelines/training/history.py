"""How training goes, told to the log, to MLflow and, at the end, to history.csv."""

import csv
import logging
from pathlib import Path

from pipelines.training.curves import Curves
from pipelines.work.progress import duration

log = logging.getLogger(__name__)


class History:
    """Tells the log and MLflow how training goes."""

    def __init__(self, curves: Curves | None, steps: int, decides: str) -> None:
        self.curves, self.steps, self.decides = curves, steps, decides

    def report(self, step: int, values: dict[str, float]) -> None:
        if self.curves:
            self.curves.log(step, values)
        if self.decides in values:
            means = [f"{name.removesuffix('.mean')} {value:.3f}" for name, value in values.items() if ".mean" in name]
            log.info("step %d/%d: %s", step, self.steps, ", ".join(means).replace("_", " "))
        else:
            log.info(
                "step %d/%d: loss %.4f, learning rate %.2e, %.2f steps/s, %.0f%% of peak, %s left",
                step, self.steps, values["loss"], values["learning_rate"], values["steps_per_s"],
                100 * values["model_flops_utilisation"], duration(values["seconds_left"]),
            )  # fmt: skip


def write_history(path: Path, curve: list[dict[str, float]]) -> None:
    """What is the same on every machine: no times, no throughput."""
    names = sorted({name for point in curve for name in point} - {"step"})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *names])
        writer.writeheader()
        writer.writerows({k: round(v, 6) for k, v in point.items()} for point in curve)
