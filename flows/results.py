"""What a finished run left: the Dice table and the registered version, read from the stages' outputs."""

import json
import math
from pathlib import Path
from typing import Any

from flows import lock
from pipelines.work import project

REPORT = "The report: `reports/evaluate/index.html`; in MLflow among the run's artifacts, `evaluate/index.html`."


def collect() -> dict[str, Any]:
    """Dice by source and structure, and the registered version.

    Keys: `mean_dice`, `cases`, `left_out` (how many), `told` (sentences), `dice` (rows: source, structure, dice or
    None, cases), `name`, `version` (str or None).
    """
    metrics = read(project.EVALUATION / "metrics.json")
    return {
        "mean_dice": _number(metrics["mean_dice"]),
        "cases": metrics["cases"],
        "left_out": len(metrics.get("left_out", ())),
        "told": metrics.get("told", []),
        "dice": [
            {"source": source, "structure": structure, "dice": _number(score["dice"]), "cases": score["cases"]}
            for source, scores in metrics["by_source"].items()
            for structure, score in scores.items()
        ],
        **registered(),
    }


def registered() -> dict[str, Any]:
    """`name` and `version` of the model in models/register; version None when MLflow here does not hold it."""
    from pipelines.release import record, registry, tracking

    content = record.read()
    version = registry.of_record(tracking.configure().MlflowClient(), content)
    return {"name": content["name"], "version": None if version is None else str(version.version)}


def links(result: dict[str, Any]) -> list[str]:
    """Markdown: where the report and the version are; addresses where a server has them."""
    from pipelines.release import tracking

    page = tracking.page() or str((lock.holder("ui") or {}).get("mlflow", ""))
    if not page or not result["version"]:
        return [REPORT]
    client = tracking.configure().MlflowClient()
    version = client.get_model_version(result["name"], result["version"])
    info = client.get_run(version.tags["mlflow_run_id"]).info
    run, models = f"{page}/#/experiments/{info.experiment_id}/runs/{info.run_id}", f"{page}/#/models/{version.name}"
    return [
        f"[The report]({run}/artifacts/evaluate%2Findex.html), here `reports/evaluate/index.html`",
        f"[The training in MLflow]({run}), [version {version.version}]({models}/versions/{version.version})",
    ]


def headline(result: dict[str, Any]) -> str:
    mean = "not measured" if result["mean_dice"] is None else f"{result['mean_dice']:.3f}"
    version = result["version"] or "not registered here"
    left_out = f" ({result['left_out']} left out)" if result["left_out"] else ""
    return f"Held-out mean Dice {mean} on {result['cases']} scans{left_out}; {result['name']} version {version}."


def read(file: Path) -> dict[str, Any]:
    """A JSON file of the project."""
    try:
        return json.loads((project.root() / file).read_text())
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file; `medseg run` makes it") from None


def _number(value: float | None) -> float | None:
    """NaN is no JSON: None."""
    return None if value is None or not math.isfinite(value) else value
