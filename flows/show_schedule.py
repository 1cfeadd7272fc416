"""What `medseg schedule` prints for people."""

from datetime import datetime
from typing import Any

from rich import box
from rich.table import Table

from flows.show import terminal


def table(content: dict[str, Any]) -> None:
    shown = Table("deployment", "schedule", "next", "last", box=box.SIMPLE_HEAD)
    for row in content["deployments"]:
        shown.add_row(row["name"], _when(row), _time(row.get("next")), _last(row.get("last")))
    console = terminal()
    console.print(shown)
    for line in _remarks(content):
        console.print(line, soft_wrap=True)


def _when(row: dict[str, Any]) -> str:
    if not row["cron"]:
        return "on demand"
    return f"{'on' if row['active'] else 'off'}: {row['cron']} {row.get('timezone', '')}".strip()


def _time(told: str | None) -> str:
    return f"{datetime.fromisoformat(told).astimezone():%Y-%m-%d %H:%M}" if told else "-"


def _last(told: dict[str, Any] | None) -> str:
    return f"{told['state']}, {_time(told['at'])}" if told else "-"


def _remarks(content: dict[str, Any]) -> list[str]:
    slots, rows = content["gpu_cluster"], content["deployments"]
    said = [f"Prefect at {content['server']}"]
    if slots:
        said.append(f"gpu-cluster: {slots['taken']} of {slots['slots']} slots taken")
    if not any(row["active"] for row in rows):
        said.append("Nothing runs by itself; `medseg schedule on` switches it on")
    elif not content["worker"]:
        said.append("No worker is here to take runs; `medseg ui` starts server and worker")
    return said
