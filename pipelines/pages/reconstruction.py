"""What pretraining learnt, for a person's eye: masked input, reconstruction, target, by modality; and the curve.

    reports/pretrain/index.html, MODALITY.png, metrics.json

Cases go without names. The same weights give the same bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from model.data.casefile import Case, CaseRecord
from model.weights_file import EncoderCard
from pipelines.pages.drawing import grey, on_square, scaled, sheet, window_of
from pipelines.pages.templates import render
from pipelines.work.writing import replacing, write_json

EDGE_PX = 240
OF_A_MODALITY = 3  # scans drawn
HIDDEN_GREY = 110


@dataclass(frozen=True)
class PaintedPatch:
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


def write(folder: Path, patches: Sequence[PaintedPatch], curve: Sequence[dict[str, float]], card: EncoderCard) -> None:
    with replacing(folder) as temporary:
        temporary.mkdir()
        tiles: dict[str, list[Image.Image]] = {}
        for patch in patches:
            for channel, name in enumerate(patch.record.modalities):
                tiles.setdefault(name, []).extend(_tiles(patch, channel))
        for name, drawn in tiles.items():
            sheet(drawn[: 3 * OF_A_MODALITY], columns=3).save(temporary / f"{name}.png")
        write_json(temporary / "metrics.json", figures(curve))
        (temporary / "index.html").write_text(_page(sorted(tiles), curve, card), encoding="utf-8")


def figures(curve: Sequence[dict[str, float]]) -> dict[str, float]:
    """The last point of the curve; `loss_over_baseline`: against the mean of each cell. `random_`: before training."""
    if not curve:
        return {}
    found = {name: round(value, 6) for name, value in curve[-1].items() if value == value}
    if "validation_explained.mean" in found:
        found["loss_over_baseline"] = round(1 - found["validation_explained.mean"], 6)
    if "probe_dice.mean" in curve[0]:
        found["random_probe_dice.mean"] = round(curve[0]["probe_dice.mean"], 6)
    return found


def _tiles(patch: PaintedPatch, channel: int) -> Iterator[Image.Image]:
    """The middle section: what was seen, what was made of it, what is there."""
    at = patch.image.shape[1] // 2
    image, painted = patch.image[channel, at].numpy(), patch.painted[channel, at].numpy()
    seen, made, there = (grey(section, window_of(image)) for section in (image, painted, image))
    seen[patch.hidden[at].numpy()] = HIDDEN_GREY
    for section in (seen, made, there):
        yield on_square(scaled(section, patch.record.spacing_mm[1:], EDGE_PX, Image.Resampling.NEAREST), EDGE_PX)


def _page(modalities: Sequence[str], curve: Sequence[dict[str, float]], card: EncoderCard) -> str:
    names = [name for name in (curve[-1] if curve else {}) if name != "step"]
    points = [[f"{point['step']:.0f}", *(f"{point.get(name, float('nan')):.3f}" for name in names)] for point in curve]
    return render(
        "reconstruction.html",
        preset=card.preset,
        recipe=card.recipe,
        scans=", ".join(f"{count} {source}" for source, count in sorted(card.scans.items())),
        names=[name.replace("_", " ") for name in ("step", *names)],
        points=points,
        modalities=modalities,
    )
