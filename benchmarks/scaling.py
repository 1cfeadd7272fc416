"""How the presets scale: 8 to 4,096 A100-80GB, patches of 128^3 to 320^3. Writes docs/scaling.md.

Run     python -m benchmarks.scaling      # one core, no GPU: about 3 min, 0.5 GB
Reads   nothing; the peer of every figure is the same preset and patch on 8 GPUs

Per preset one block of each stage is simulated (model/certificate/estimate.py) at 128^3 and 256^3, replicated and
sharded, at every level of checkpointing. Deep networks and other numbers of ranks follow in closed form; patches of
192^3 and 320^3 from a line through both in the number of voxels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from model.certificate.launch_plan import CHECKPOINTING, LaunchPlan
from model.certificate.ways import GIB, SPARE, WAITING, Goal, PlanOutcome, estimated, groups, judged
from model.engine.hardware import find_gpu
from model.network.config import PRESETS

GPU = find_gpu("a100-80gb")
GPUS = (8, 32, 128, 512, 1024, 4096)
NAMES = ("small", "base", "large", "xl")
SIMULATED, EDGES = (128, 256), (128, 192, 256, 320)
GLOBAL_BATCH = 256
GOAL = Goal(steps=1, within_days=1.0)  # no limit of time: the study asks how fast, not whether in time
TARGET = Path(__file__).parents[1] / "docs" / "scaling.md"


def main() -> None:
    start = time.process_time()
    sections = [section(name) for name in NAMES]
    end = f"Made in {time.process_time() - start:.0f} CPU seconds."
    TARGET.write_text(PRELUDE + "\n\n".join([*sections, end]) + "\n")
    print(TARGET)


def section(name: str) -> str:
    """The best way for each number of GPUs and patch, then how far each strategy goes."""
    header = " | ".join(f"{edge}^3" for edge in EDGES) + " |"
    lines = [f"## {name}", "", f"| GPUs | {header}", "|---:|" + "---|" * len(EDGES)]
    for ranks in GPUS:
        cells = [cell(outcomes(name, ranks, edge)) for edge in EDGES]
        lines.append(f"| {ranks:,} | " + " | ".join(cells) + " |")
    lines += ["", f"| strategy | {header}", "|---|" + "---|" * len(EDGES)]
    for strategy in ("ddp", "fsdp", "hsdp"):
        lines.append(f"| {strategy} | " + " | ".join(reach(name, strategy, edge) for edge in EDGES) + " |")
    return "\n".join(lines)


def cell(found: list[PlanOutcome]) -> str:
    fitting = [outcome for outcome in found if not outcome.faults]
    if not fitting:
        return "nothing fits"
    best = min(fitting, key=lambda outcome: outcome.timing.step_s)
    group = f"/{best.plan.group}" if best.plan.strategy == "hsdp" else ""
    return (
        f"{best.plan.strategy}{group} {best.plan.checkpointing}, {best.peak_bytes / GIB:.1f} GiB, "
        f"{best.timing.step_s:.2f} s, {best.timing.communication_share:.0%}"
    )


def reach(name: str, strategy: str, edge: int) -> str:
    """Where a strategy stops, and at what."""
    last = ""
    for ranks in GPUS:
        found = [outcome for outcome in outcomes(name, ranks, edge) if outcome.plan.strategy == strategy]
        if not found:
            continue
        if any(not outcome.faults for outcome in found):
            last = f"works to {ranks:,}"
            continue
        waits = any("messages" in fault for outcome in found for fault in outcome.faults)
        least = min(outcome.peak_bytes for outcome in found) / GIB
        why = "waits for messages" if waits else f"memory ({least:.0f} GiB)"
        if last or ranks == GPUS[-1]:
            return f"{last}; at {ranks:,}: {why}" if last else why
    return last or "never"


@cache
def outcomes(name: str, ranks: int, edge: int) -> list[PlanOutcome]:
    return list(_outcomes(name, ranks, edge))


def _outcomes(name: str, ranks: int, edge: int) -> Iterator[PlanOutcome]:
    for plan in ways(name, ranks):
        low, high = (at(plan, size) for size in SIMULATED)
        # What is too large before the first voxel was not timed, and needs no line.
        yield judged(between(low, high, plan, edge), GOAL) if low.timing.mfu else high


@cache
def at(plan: LaunchPlan, size: int) -> PlanOutcome:
    return estimated(replace(plan, patch=(size,) * 3), GPU, GOAL)


def ways(name: str, ranks: int) -> Iterator[LaunchPlan]:
    """A micro-batch of 1: larger ones change the memory, and little else."""
    for strategy in ("ddp", "fsdp", "hsdp"):
        for group in [size for size in groups(strategy, ranks) if size <= 64 or strategy == "fsdp"]:
            for level in CHECKPOINTING:
                yield LaunchPlan(
                    network=PRESETS[name], classes=10, channels=4, patch=(128, 128, 128), ranks=ranks, group=group,
                    strategy=strategy, checkpointing=level, micro_batch=1, global_batch=max(GLOBAL_BATCH, ranks),
                )  # fmt: skip


def between(low: PlanOutcome, high: PlanOutcome, plan: LaunchPlan, edge: int) -> PlanOutcome:
    """On the line through two simulated patches, in the number of voxels."""
    first, second = (size**3 for size in SIMULATED)
    share = (edge**3 - first) / (second - first)

    def line(a: float, b: float) -> float:
        return a + share * (b - a)

    timing = replace(
        high.timing,
        step_s=line(low.timing.step_s, high.timing.step_s),
        exposed_s=max(0.0, line(low.timing.exposed_s, high.timing.exposed_s)),
    )
    return PlanOutcome(replace(plan, patch=(edge,) * 3), GPU, line(low.peak_bytes, high.peak_bytes), timing, ())


PRELUDE = f"""# Scaling

`python -m benchmarks.scaling` makes this page: every preset on 8 to 4,096 A100-80GB in nodes of eight (HDR
InfiniBand), patches of 128^3 to 320^3 with four channels and ten classes, float16, AdamW. A step sees {GLOBAL_BATCH}
patches, or one a GPU where there are more GPUs. Nothing was measured on a GPU; [certificate](certificate.md) says how
the figures come about and what they leave out. Simulated are one block of each stage at 128^3 and 256^3; depths and
ranks follow in closed form, 192^3 and 320^3 from a line through both.

A cell: the fastest way that fits (strategy, ranks to a copy, checkpointing), memory at its peak, seconds a step, share
of the step in which GPUs wait for messages. A way fits if {SPARE:.0%} of the memory stays free after the reserve and no
more than {WAITING:.0%} of a step is waiting. The second table says how many GPUs each strategy goes to, and what ends
it.

"""

if __name__ == "__main__":
    main()
