"""An evaluation in words and tables: from scores and their summary to what the report shows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.evaluation import heart, subgroups
from pipelines.evaluation.definitions import METRICS
from pipelines.evaluation.score import Score, structures_of
from pipelines.pages.evaluation.content import Content, LabelTold, MetricTold, StructureTold, Viewed
from pipelines.scans.vocabulary import Vocabulary

TOLERANCE_FROM = (
    "the structure's entry in structures.yaml; of the default vocabulary chosen by MedSegFormer, not measured"
)
GIVEN_TOLERANCE_FROM = "MedSegFormer's vocabulary where it knows the name, else 2 mm; not measured"
SENTENCES = 4  # of the weakest structures; the table has them all
VIEWED_CASES = 24  # with pictures, the worst first; the file's size bounds them too


def as_report(
    title: str,
    scores: Sequence[Score],
    summary: Mapping[str, Any],
    words: Vocabulary,
    facts: Mapping[str, str],
    viewed: Sequence[Viewed] = (),
    tolerance_from: str = TOLERANCE_FROM,
) -> Content:
    """`summary`: what metrics.json holds. `viewed`: the cases to look at, the most interesting first."""
    size = subgroups.thirds(scores)
    names = structures_of(scores)
    rows = [{**score.to_json(), "size": size.get((score.case_id, score.structure), "")} for score in scores]
    for row in rows:
        row.pop("lesions_ml"), row.pop("lesions_found_ml")
    return Content(
        title=title,
        facts=facts,
        summary=summary["told"],
        metrics=[
            MetricTold(m.key, m.name, m.unit, m.better, m.definition, m.edges, m.source)
            for m in METRICS
            if any(row[m.key] is not None for row in rows)
        ],
        structures=[
            StructureTold(
                name, shown(name), words[name].colour, words[name].tolerance_mm, tolerance_from,
                summary["structures"][name]["warnings"], words.covered_ids(name),
            )
            for name in names
        ],
        rows=rows,
        summaries=list(_summaries(summary)),
        left_out=list(summary["left_out"].items()),
        confidence=[_trusted(name, told) for name, told in summary.get("confidence", {}).items()],
        calibration=_calibration(summary.get("calibration")),
        viewed=viewed,
        labels=_labels(viewed, words),
    )  # fmt: skip


def shown(name: str) -> str:
    return name.replace("_", " ")


def interesting(scores: Sequence[Score], most: int = VIEWED_CASES) -> list[str]:
    """Cases to look at: the worst first, by their worst structure; between them the median and the best one."""
    worst: dict[str, float] = {}
    for score in scores:
        if score.present:
            worst[score.case_id] = min(score.dice, worst.get(score.case_id, 1.0))
    ranked = sorted(worst, key=lambda case: (worst[case], case))
    if not ranked:
        return []
    chosen = dict.fromkeys([ranked[0], ranked[len(ranked) // 2], ranked[-1], *ranked])
    return sorted(list(chosen)[:most], key=ranked.index)


def sentences(scores: Sequence[Score], summary: Mapping[str, Any]) -> Iterator[str]:
    """What a clinician should know before any table."""
    cases, patients, left_out = summary["cases"], summary["patients"], len(summary["left_out"])
    told = f"{_many(cases, 'held-out scan')} of {_many(patients, 'patient')} were measured"
    yield f"{told}; {left_out} could not be and are listed below." if left_out else f"{told}; none was left out."
    found = summary["structures"]
    ranked = sorted(structures_of(scores), key=lambda name: _dice(found[name]))
    shown_ones = ranked if len(ranked) <= SENTENCES + 1 else ranked[:SENTENCES]
    for name in shown_ones:
        yield _of_structure(name, found[name])
    if others := [name for name in ranked if name not in shown_ones]:
        missed = sum(found[name]["cases"]["missed"] for name in others)
        yield (
            f"The other {len(others)} structures: Dice {_dice(found[others[0]]):.3f} to "
            f"{_dice(found[others[-1]]):.3f}, "
            f"missed {_many(missed, 'time')} in all."
        )
    for ventricle, found in heart.errors(scores).items():
        yield (
            f"Ejection fraction of the {shown(ventricle)}: off by {found['mean_error_points']:.1f} points in mean over "
            f"{_many(found['patients'], 'patient')}, a missed ventricle counted as 100."
        )


def _dice(found: Mapping[str, Any]) -> float:
    """What nobody has comes last."""
    return float(found["dice"]["mean"]) if "dice" in found else float("inf")


def _of_structure(name: str, found: Mapping[str, Any]) -> str:
    cases = found["cases"]
    drawn = cases["scored"] + cases["missed"]
    if "dice" not in found:
        return f"{shown(name).capitalize()}: in no scan, neither drawn nor predicted."
    parts = [f"Dice {_interval(found['dice'], 3)}"]
    if surface := found.get("surface_dice"):
        parts.append(f"{surface['mean']:.0%} of its surface within {found['tolerance_mm']:g} mm")
    parts.append(f"missed in {cases['missed']} of {_many(drawn, 'scan')} that have it")
    if (lesions := found.get("lesions")) and lesions["lesions"]:
        parts.append(f"{lesions['sensitivity']['estimate']:.0%} of {_many(lesions['lesions'], 'lesion')} found")
    if cases["invented"]:
        parts.append(f"invented in {cases['invented']} of {cases['invented'] + cases['absent']} that have none")
    return f"{shown(name).capitalize()}: {'; '.join(parts)}."


def _interval(figure: Mapping[str, Any], digits: int) -> str:
    if figure["low"] is None:
        return f"{figure['mean']:.{digits}f} ({_many(figure['n'], 'scan')}: {figure['note']} for an interval)"
    return (
        f"{figure['mean']:.{digits}f} (95 % interval {figure['low']:.{digits}f} to {figure['high']:.{digits}f}, "
        f"{_many(figure['n'], 'scan')})"
    )


def _summaries(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from _rows("all", "", summary["structures"])
    for kind, values in summary["groups"].items():
        for value, structures in values.items():
            yield from _rows(kind, value, structures)


def _rows(group: str, value: str, structures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, found in structures.items():
        for metric in METRICS:
            if metric.key in found:
                yield {
                    "group": group, "value": value, "structure": name, "metric": metric.key,
                    "cases_absent": found["cases"]["absent"], **found[metric.key],
                }  # fmt: skip


def _trusted(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """The network's own confidence first; of the volume a sentence beside its figures."""
    ranked = told.get("confidence") or told.get("flip_dice") or {"risk_coverage": None, "spearman": None}
    volume = told["volume"]
    if volume["lower_factor"] is None:
        sentence = f"No interval: {volume['note']} ({_many(volume['patients'], 'patient')})."
    else:
        sentence = (
            f"In {volume['level']:.0%} of patients the true volume lies between {volume['lower_factor']:.2f} and "
            f"{volume['upper_factor']:.2f} times the predicted one."
        )
    return {"structure": name, **ranked, "volume": {**volume, "told": sentence}}


def _calibration(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not found:
        return None
    bins = [{"predicted": b["predicted"], "observed": b["observed"], "count": b["n"]} for b in found["bins"] if b["n"]]
    return {"bins": bins, "error": found["expected_error"]}


def _labels(viewed: Sequence[Viewed], words: Vocabulary) -> list[LabelTold]:
    """What the label maps that can be looked at hold."""
    held = {int(value) for case in viewed for layer in case.layers.values() for value in np.unique(layer)} - {0}
    known = [words.by_id[value] for value in sorted(held) if value in words.by_id]
    return [LabelTold(each.id, shown(each.name), each.colour) for each in known]


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
