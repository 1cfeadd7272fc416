"""A run whose batches come from several sources, each with patches and channels of its own.

All ranks of a micro-step have batches of the same source, so a step's time is the mean of the sources', by their
shares; its memory is that of the largest.
"""

from __future__ import annotations

from typing import Any

from model.certificate.ways import GIB, Goal, PlanOutcome, estimated


def mixture(outcome: PlanOutcome, goal: Goal) -> dict[str, Any]:
    """As the certificate tells it: a line a source, by estimate, and the mean of all; nothing where no mix is known."""
    plan, gpu = outcome.plan, outcome.gpu
    if not plan.mix or not outcome.timing.mfu:
        return {}
    found = [(each, estimated(plan.of_source(each), gpu, goal)) for each in plan.mix]
    step_s = sum(each.share * source.timing.step_s for each, source in found)
    useful_s = sum(each.share * source.timing.mfu * source.timing.step_s for each, source in found)
    return {
        "sources": [
            {
                "source": each.source,
                "share": each.share,
                "patch": list(each.patch),
                "channels": each.channels,
                "step_time_s": source.timing.step_s,
                "model_flops_utilisation": source.timing.mfu,
                "peak_memory_gib": source.peak_bytes / GIB,
            }
            for each, source in found
        ],
        "step_time_s": step_s,
        "model_flops_utilisation": useful_s / step_s,
        "peak_memory_gib": max(source.peak_bytes for _, source in found) / GIB,
        "days": goal.days(step_s),
    }
