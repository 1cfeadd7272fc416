"""What pretraining learnt, for a person's eye: masked input, reconstruction, target, by modality; and the curve.

    reports/pretrain/index.html, MODALITY.png, metrics.json

Cases go without names. The same weights give the same bytes.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from model.data.casefile import Case, CaseRecord
from model.weights import EncoderCard
from pipelines.work.writing import replacing

EDGE_PX, GAP_PX = 240, 4
OF_A_MODALITY = 3  # scans drawn
HIDDEN_GREY = 110
_STYLE = "body{font:14px sans-serif;margin:2em;max-width:70em}td,th{text-align:right;padding:2px 12px 2px 0}"


@dataclass(frozen=True)
class Picture:
    """A patch: `image` and `painted` (C, D, H, W), `hidden` (D, H, W) bool."""

    record: CaseRecord
    image: Tensor
    hidden: Tensor
    painted: Tensor


def choose(cases: Sequence[Case]) -> list[Case]:
    """The first cases until every modality is shown often enough, sources in turn."""
    shown: dict[str, int] = {}
    seen_sources: dict[str, int] = {}
    turns = []
    for case in cases:
        turn = seen_sources[case.record.source] = seen_sources.get(case.record.source, 0) + 1
        turns.append((turn, case))
    chosen = []
    for _, case in sorted(turns, key=lambda pair: pair[0]):
        if any(shown.get(name, 0) < OF_A_MODALITY for name in case.record.modalities):
            chosen.append(case)
            for name in case.record.modalities:
                shown[name] = shown.get(name, 0) + 1
    return chosen


def write(folder: Path, pictures: Sequence[Picture], curve: Sequence[dict[str, float]], card: EncoderCard) -> None:
    with replacing(folder) as temporary:
        temporary.mkdir()
        rows: dict[str, list[np.ndarray]] = {}
        for picture in pictures:
            for channel, name in enumerate(picture.record.modalities):
                rows.setdefault(name, []).append(_row(picture, channel))
        for name, drawn in rows.items():
            Image.fromarray(np.concatenate(drawn[:OF_A_MODALITY])).save(temporary / f"{name}.png")
        (temporary / "metrics.json").write_text(json.dumps(metrics(curve), indent=2) + "\n")
        (temporary / "index.html").write_text(_page(sorted(rows), curve, card), encoding="utf-8")


def metrics(curve: Sequence[dict[str, float]]) -> dict[str, float]:
    """The last point of the curve; `loss_over_baseline`: against the mean of each cell. `random_`: before training."""
    if not curve:
        return {}
    found = {name: round(value, 6) for name, value in curve[-1].items() if value == value}
    if "validation_explained.mean" in found:
        found["loss_over_baseline"] = round(1 - found["validation_explained.mean"], 6)
    if "probe_dice.mean" in curve[0]:
        found["random_probe_dice.mean"] = round(curve[0]["probe_dice.mean"], 6)
    return found


def _row(picture: Picture, channel: int) -> np.ndarray:
    """The middle section: what was seen, what was made of it, what is there. (rows, columns, 3) uint8."""
    at = picture.image.shape[1] // 2
    image, painted = picture.image[channel, at].numpy(), picture.painted[channel, at].numpy()
    low, high = np.percentile(image, (1, 99))
    seen, made, there = (
        np.asarray(((section - low) / max(float(high - low), 1e-6)).clip(0, 1) * 255).round().astype(np.uint8)
        for section in (image, painted, image)
    )
    seen[picture.hidden[at].numpy()] = HIDDEN_GREY
    spacing_mm = picture.record.spacing_mm[1:]
    return np.concatenate([_tile(section, spacing_mm) for section in (seen, made, there)], axis=1)


def _tile(section: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Front of the patient up, in a black square."""
    size_mm = [n * mm for n, mm in zip(section.shape, spacing_mm, strict=True)]
    height, width = (max(1, round(EDGE_PX * size / max(size_mm))) for size in size_mm)
    scaled = Image.fromarray(np.ascontiguousarray(section[::-1])).resize((width, height), Image.Resampling.NEAREST)
    tile = Image.new("RGB", (EDGE_PX + GAP_PX, EDGE_PX + GAP_PX))
    tile.paste(scaled.convert("RGB"), ((EDGE_PX - width) // 2, (EDGE_PX - height) // 2))
    return np.asarray(tile)


def _page(modalities: Sequence[str], curve: Sequence[dict[str, float]], card: EncoderCard) -> str:
    title = "Pretraining"
    scans = ", ".join(f"{count} {source}" for source, count in sorted(card.scans.items()))
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    told = (
        f"Preset {card.preset}, {card.recipe['steps']} steps on {scans}. {card.recipe['mask_fraction']:.0%} of cells "
        f"of {card.recipe['mask_stride']} voxels hidden. Explained: share of the variance within hidden cells that is "
        "predicted; 0 is what the mean of each cell would reach. Probe: Dice of a linear map of frozen features; the "
        "first line is the random encoder."
    )
    names = [name for name in (curve[-1] if curve else {}) if name != "step"]
    header = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in ("step", *names))
    lines = [
        f"<tr><td>{point['step']:.0f}</td>" + "".join(f"<td>{point.get(name, float('nan')):.3f}</td>" for name in names)
        for point in curve
    ]
    pictures = [
        f'<h2>{html.escape(name)}</h2><p>What was seen, what was made of it, what is there.</p><img src="{name}.png" '
        f'alt="{name}: masked input, reconstruction, target">'
        for name in modalities
    ]
    table = f"<table><tr>{header}</tr>{''.join(lines)}</table>" if curve else "<p>No validation patient.</p>"
    return "\n".join([head, f"<h1>{title}</h1><p>{html.escape(told)}</p>", table, *pictures, "</html>\n"])
