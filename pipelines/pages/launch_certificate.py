"""The launch certificate on one page: the verdict, memory over a step, what it is made of, where the time goes.

write(content, folder) -> Path       NAME.json, and NAME.html with inline SVG beside it
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.certificate.memory import CATEGORIES
from pipelines.pages.templates import render
from pipelines.work.writing import replacing, write_json

# Told apart on paper and on a dark screen, and by most colour-blind people.
COLOURS = dict(zip(CATEGORIES, ("#3568a8", "#56b4e9", "#4c9f70", "#e69f00", "#b266c9", "#8d98a5"), strict=True))
PLAIN = "#328cc1"
WIDTH, HEIGHT, MARGIN = 860, 260, 46
BAR_START, BAR_MOST, BAR_STEP = 270, 430, 20
CAPACITY_AT = 0.94  # of the height, so that the GPU's limit is seen as a line
LONGEST_FAULT = 110


def write(content: Mapping[str, Any], folder: Path) -> Path:
    """A certificate's content, as `model.certificate.report` makes it, into `folder`; the JSON file's path."""
    pretraining = "-pretrain" if content["stage"] == "pretrain" else ""
    target = folder / f"{content['preset']}-{content['gpu']['key']}x{content['ranks']}{pretraining}.json"
    with replacing(target.with_suffix(".html")) as temporary:
        temporary.write_text(page(content), encoding="utf-8")
    write_json(target, content)
    return target


def page(content: Mapping[str, Any]) -> str:
    memory, time = content["memory"], content["time"]
    simulated = "timeline" in memory
    flops = {name: count / 1e12 for name, count in time["flops_by_part"].items()}
    return render(
        "launch_certificate.html",
        content=content,
        verdict="fits" if content["fits"] else "does not fit",
        cards=_cards(content),
        facts=_facts(content),
        width=WIDTH,
        height=HEIGHT,
        bar_step=BAR_STEP,
        timeline=_timeline(memory) if simulated else None,
        colours=COLOURS,
        at_peak=_bars(_at_peak(memory), "GiB", COLOURS) if simulated else None,
        kernels=_bars(time["kernel_seconds"], "s"),
        flops=_bars(flops, "TFLOP"),
        rates=_rates(time),
        parts=_parts(time),
        ways=[{**way, "faults": "; ".join(way["faults"])[:LONGEST_FAULT]} for way in content["ways"]],
    )


def _cards(content: Mapping[str, Any]) -> dict[str, str]:
    """What a person decides by."""
    memory, low = content["memory"], content["time"]["model_flops_utilisation_range"][0]
    return {
        "peak memory": f"{content['peak_memory_gib']:.1f} of {memory['capacity_gib']:.1f} GiB",
        "to spare": f"{content['spare_fraction']:.1%}",
        "a step": f"{content['step_time_s']:.2f} s",
        "the run": f"{content['days']:.1f} days",
        "model FLOP utilisation": f"{low:.1%}",
    }


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
        "terms of it": f"{time['without_terms']['step_time_s']:.2f} s at the rates alone, which were "
        f"{time['without_terms']['model_flops_utilisation']:.1%}; {time['occupancy_s']:.2f} s more for products that "
        "do not fill all multiprocessors, "
        f"{time['launches_s']:.2f} s waiting for the CPU to start kernels; "
        + ("compiled modules' kernels are joined" if time["compiled"] else "nothing is compiled"),
        "duration": f"{run['steps']:,} steps, {run['epochs']:.0f} epochs: {content['days']:.1f} days; "
        f"{run['within_days']:g} days would hold {run['steps_possible']:,} steps",
        "cost": f"{run['gpu_hours']:,.0f} GPU-hours, {run['energy_kwh']:,.0f} kWh (machines at their maximum)",
        "storage": f"{storage['total_tb']:.1f} TB: {storage['scans']:,} scans, three checkpoints of "
        f"{storage['checkpoint_gb']:.0f} GB",
        "rates": time["rates_from"],
        **_host(content["host"]),
        "loader": f"{storage['read_gb_per_s']:.2f} GB/s in all, {storage['read_gb_per_s_a_node']:.2f} GB/s a node",
    }


def _host(host: Mapping[str, Any]) -> dict[str, str]:
    """Of the machines around the GPUs, a node each."""
    region = host["region_factor"]
    return {
        "shared memory of a node": f"{host['shared_gib']:.1f} GiB of /dev/shm, at most {host['shared_most_gib']:.1f}: "
        f"{host['ranks']} ranks, {host['loaders']} loaders each; a micro-batch of bricks has "
        f"{host['batch_mib']:.0f} MiB, since augmentation reads {region['mean']:.2f} times a patch in the mean of its "
        f"draws, at most {region['largest']:.2f} times",
        "page-locked memory of a node": f"{host['pinned_gib']:.1f} GiB: {host['pinned_by_loaders_gib']:.1f} on the way "
        f"from loaders to GPUs, {host['pinned_by_checkpoints_gib']:.1f} for the checkpoint being written",
        "open files of a node": f"{host['descriptors']:,} descriptors for loaders",
    }


def _rates(time: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, what was assumed, what was measured of it."""
    known = (time["calibration"] or {}).get("rates", {})
    names = dict.fromkeys([*time["assumed_rates"], *known])
    return [(name, _rate(time["assumed_rates"].get(name)), _rate(known.get(name))) for name in names]


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _parts(time: Mapping[str, Any]) -> list[dict[str, str]]:
    """Guessed against measured, in milliseconds."""
    return [
        {
            "name": part["name"],
            "times": str(part["times"] or ""),
            "guessed": f"{1e3 * part['guessed_s']:.3f}",
            "calibrated": f"{1e3 * part['calibrated_s']:.3f}",
            "measured": f"{1e3 * part['measured_s']:.3f}" if part["measured_s"] else part["note"],
            "ratio": f"{part['measured_s'] / part['guessed_s']:.2f}" if part["measured_s"] else "",
        }
        for part in (time["calibration"] or {}).get("parts", ())
    ]


@dataclass(frozen=True)
class Timeline:
    """Memory over a step in pixels: `areas` (category, colour, outline), `levels` (y, GiB), `marks` (x, name)."""

    areas: list[tuple[str, str, str]]
    levels: list[tuple[float, float]]
    marks: list[tuple[float, str]]
    capacity_y: float
    left: int = MARGIN


def _timeline(memory: Mapping[str, Any]) -> Timeline:
    """Stacked areas, the capacity as a line, the parts of the step marked."""
    points, capacity = memory["timeline"], memory["capacity_gib"]
    last, first_mark = points[-1][0] or 1, memory["marks"][0][1]

    def x(number: float) -> float:
        return MARGIN + (WIDTH - MARGIN) * number / last

    def y(gib: float) -> float:
        return HEIGHT - HEIGHT * min(1.0, gib / capacity) * CAPACITY_AT

    return Timeline(
        areas=[
            (category, COLOURS[category], " ".join(f"{x(number):.1f},{y(gib):.1f}" for number, gib in outline))
            for category, outline in zip(CATEGORIES, _outlines(points), strict=True)
        ],
        levels=[(y(gib), gib) for gib in (0, capacity / 2, capacity)],
        marks=[(min(x(number - first_mark), WIDTH - 52), name) for name, number in memory["marks"]],
        capacity_y=y(capacity),
    )


def _outlines(points: Sequence[tuple[float, Sequence[float]]]) -> Iterator[list[tuple[float, float]]]:
    """Each category's area between those below it and itself: (operation number, GiB) there and back."""
    numbers, floor = [number for number, _ in points], [0.0] * len(points)
    for index in range(len(CATEGORIES)):
        top = [below + levels[index] for below, (_, levels) in zip(floor, points, strict=True)]
        yield [*zip(numbers, top, strict=True), *reversed(list(zip(numbers, floor, strict=True)))]
        floor = top


def _at_peak(memory: Mapping[str, Any]) -> dict[str, float]:
    return {name: memory["at_peak_gib"][name] for name in CATEGORIES}


def _bars(values: Mapping[str, float], unit: str, colours: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    largest = max(values.values(), default=0) or 1
    return [
        {
            "name": name,
            "y": BAR_STEP * number,
            "start": BAR_START,
            "length": BAR_MOST * value / largest,
            "colour": (colours or {}).get(name, PLAIN),
            "told": f"{value:.2f} {unit}",
        }
        for number, (name, value) in enumerate(values.items())
    ]
