"""What `medseg certify` and `medseg plan-run` print for people."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from flows.show import figure, table, terminal


def certificate(content: dict[str, Any]) -> None:
    """The verdict and what a person decides by; the page beside the certificate has the rest."""
    memory, time, run, storage, host = (content[name] for name in ("memory", "time", "run", "storage", "host"))
    low, high = time["model_flops_utilisation_range"]
    table(
        {
            "fits": "yes" if content["fits"] else "no",
            "strategy": f"{content['strategy']}, {content['group']} ranks to a copy of the weights, "
            f"micro-batch {content['micro_batch']}, checkpointing {content['activation_checkpointing']}",
            "peak memory": f"{content['peak_memory_gib']:.1f} of {memory['capacity_gib']:.1f} GiB, "
            f"{memory.get('peak_in', 'estimated')}",
            "to spare": f"{content['spare_fraction']:.1%} after a reserve of {memory['reserve_gib']:.1f} GiB",
            "step": f"{content['step_time_s']:.2f} s, {time['communication_share']:.1%} waiting for messages",
            "rates": time["rates_from"],
            "model FLOP utilisation": f"{low:.1%} planned, {high:.1%} with better kernels",
            "run": f"{run['steps']:,} steps, {run['epochs']:.0f} epochs, {content['days']:.1f} days, "
            f"{run['gpu_hours']:,.0f} GPU-hours, {run['energy_kwh']:,.0f} kWh",
            "storage": f"{storage['total_tb']:.1f} TB; loaders read {storage['read_gb_per_s']:.2f} GB/s",
            "host memory of a node": f"{host['shared_gib']:.0f} GiB of /dev/shm (at most "
            f"{host['shared_most_gib']:.0f}), {host['pinned_gib']:.0f} GiB page-locked, {host['descriptors']:,} files",
        }
    )
    for sentence in content["reasons"]:
        print(sentence)
    if content["to_set"]:
        print(f"Set in {content['parameters_from']}: {content['to_set']}")
    if content["fits"]:
        print(f"Certificate: {content['file']} (and .html)")


def calibrated(content: Mapping[str, Any]) -> None:
    """The rates, and each part guessed against measured."""
    versions = content["versions"]
    table(
        {
            "card": f"{content['card']}, {content['precision']}",
            "made with": f"PyTorch {versions['torch']}, driver {versions['driver']}, {content['made']}",
            **{name: f"{rate:.3g}" for name, rate in content["rates"].items()},
            "parts against probes": f"{content['unexplained']:.2f} times as long, which is in the rates",
        }
    )
    rows = Table("part", "times", "guessed, ms", "measured, ms", "ratio", box=box.SIMPLE_HEAD)
    for part in content["parts"]:
        measured = part["measured_s"]
        told = (f"{1e3 * measured:.3f}", f"{measured / part['guessed_s']:.2f}") if measured else (part["note"], "")
        rows.add_row(part["name"], str(part["times"] or ""), f"{1e3 * part['guessed_s']:.3f}", *told)
    terminal().print(rows)
    for note in content["notes"]:
        print(note)


def whole_plan(content: Mapping[str, Any]) -> None:
    """The rungs in order, what each costs, and what is done."""
    rung_table(content)
    if "total" in content:
        total = content["total"]
        print(
            f"All: {total['days']:.1f} of {total['within_days']:g} days, {total['gpu_hours']:,.0f} GPU-hours; "
            f"{total['spare_days']:.1f} days to spare"
        )


def rung_table(content: Mapping[str, Any]) -> None:
    rows = Table("rung", "pretraining, days", "training, days", "GPU-hours", "validation Dice", box=box.SIMPLE_HEAD)
    rows.add_column("told", overflow="fold")
    blank = {"pretrain_days": None, "train_days": None, "gpu_hours": None, "way": ""}
    costs = content.get("costs") or [blank] * len(content["record"])
    for done, cost in zip(content["record"], costs, strict=True):
        numbers = [_days(cost["pretrain_days"]), _days(cost["train_days"]), _hours(cost["gpu_hours"])]
        rows.add_row(done["name"], *numbers, figure(done["mean"]), done["verdict"] or cost["way"])
    terminal().print(rows)


def over_budget(content: Mapping[str, Any]) -> str:
    """Why the plan does not fit."""
    total = content["total"]
    pairs = zip(content["rungs"], content["costs"], strict=True)
    faults = [f"{rung['name']}: {cost['way']}" for rung, cost in pairs if not cost["fits"]]
    if total["spare_days"] < 0:
        faults.append(
            f"the rungs take {total['days']:.1f} days, more than --days {total['within_days']:g}: fewer --steps or "
            "--seeds, or more --gpus"
        )
    return "; ".join(faults)


def _days(value: float | None) -> str:
    return "-" if not value else f"{value:.2f}"


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
